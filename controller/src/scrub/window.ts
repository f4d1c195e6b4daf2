const MINUTES_OF_A_DAY = 24 * 60;

/**
 * Whether a time lies in a window of the day.
 *
 * @param window the value of nas.backup.scrub.window, such as `22:00-06:00` in UTC, the end not included; a window that ends
 *   before it begins crosses midnight. Empty, or from a time to the same: always.
 */
export function isWithin(window: string, time: Date): boolean {
  const [begin, end] = window.split('-').map(minutesOf);
  if (begin === undefined || end === undefined) return true;
  const after = (minutes: number): number => (minutes - begin + MINUTES_OF_A_DAY) % MINUTES_OF_A_DAY;
  return end === begin || after(time.getUTCHours() * 60 + time.getUTCMinutes()) < after(end);
}

/** Of `06:30`, 390. */
function minutesOf(text: string): number {
  const [hours = 0, minutes = 0] = text.split(':').map(Number);
  return hours * 60 + minutes;
}
