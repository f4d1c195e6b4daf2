import assert from 'node:assert/strict';
import type { RestoreResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { succeeded, type Followed } from '../../harness/follow.ts';

/** What a restore that must have ended well came to. */
export function restoreResult(followed: Followed): RestoreResult {
  const result = succeeded(followed).result?.result;
  assert.equal(result?.$case, 'restore');
  return result.value;
}

/** The reasons of the warnings of an operation. */
export function warnings({ events }: Followed): string[] {
  return events.flatMap(({ event }) => (event?.$case === 'warning' ? [event.value.reason] : []));
}
