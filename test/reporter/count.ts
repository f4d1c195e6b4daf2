import { reporters } from 'mocha';

/** mocha's spec reporter, with the count of tests alone on the last line of everything. */
export default class Count extends reporters.Spec {
  /** mocha calls it last, after the run and the list of failures. */
  override done(failures: number, end: (failures: number) => void): void {
    const { passes, failures: failed } = this.stats;
    process.stdout.write(`${passes} passed, ${failed} failed\n`);
    end(failures);
  }
}
