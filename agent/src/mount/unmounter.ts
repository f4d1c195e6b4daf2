/**
 * The program that unmounts a place which no process uses; it prints how that ended.
 *
 *     unmounter.ts PLACE-DIRECTORY
 */
import { placeAt } from './place.ts';
import { unmountHere } from './unmount.ts';

const [directory] = process.argv.slice(2);
if (directory === undefined) throw new Error('unmounter.ts PLACE-DIRECTORY');
process.stdout.write(`${await unmountHere(placeAt(directory))}\n`);
