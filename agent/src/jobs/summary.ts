import type { Stage, StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import type { JobSummary } from '../stages/context.ts';
import type { JobEvent } from './eventLog.ts';

/** Collects what a job tells. */
export function summarize(): JobSummary & { readonly note: (event: JobEvent) => void } {
  const figures = new Map<Stage, StageFigures>();
  const warnings: string[] = [];
  return {
    figures,
    warnings,
    note: (event) => {
      if (event.$case === 'warning') warnings.push(event.value.message);
      if (event.$case === 'stageFinished' && event.value.figures !== undefined) {
        figures.set(event.value.stage, event.value.figures);
      }
    },
  };
}
