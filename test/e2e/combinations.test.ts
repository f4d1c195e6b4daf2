import { describeCombinations } from './support/combinations.ts';
import { pairwiseFeatures } from './support/features.ts';

describeCombinations('features, every two values together', pairwiseFeatures());
