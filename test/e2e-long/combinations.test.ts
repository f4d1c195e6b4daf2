import { describeCombinations } from '../e2e/support/combinations.ts';
import { allFeatures } from '../e2e/support/features.ts';

describeCombinations('features, all combinations', allFeatures());
