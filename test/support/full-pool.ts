/**
 * A program for a process of its own: every thread of libuv's pool is held by opening a FIFO that nobody
 * writes to, as a dead file server holds them. Then it makes a call in a thread and one in this thread, and
 * prints which of them returned.
 */
import { open } from 'node:fs/promises';
import { LIBC } from '../../src/xenctrl/declarations.ts';
import { bind, loadKoffi } from '../../src/xenctrl/native.ts';

const [fifo = ''] = process.argv.slice(2);
const { memcmp } = bind(await loadKoffi(), LIBC);
const bytes = new Uint8Array(64);
for (let i = 0; i < 4; i++) void open(fifo, 'r');
const inThread = memcmp.call(bytes, bytes, 64).then(() => 'a thread');
const late = new Promise<string>((resolve) => setTimeout(resolve, 500, 'no thread'));
const here = memcmp.callHere(bytes, bytes, 64).value === 0 ? 'this thread' : 'none';
console.log(`${here}, ${await Promise.race([inThread, late])}`);
process.kill(process.pid, 'SIGKILL');
