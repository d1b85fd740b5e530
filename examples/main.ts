/** `node main.js create DOMAIN CFGFILE` and `node main.js revert DOMAIN CFGFILE`, without xl. */
import { createSnapshot, observe, revertSnapshot } from 'xlsnap';
import { readConfigFile } from 'xlsnap/config';
import { libxlDomains } from './libxl.ts';
import { openOwnHost } from './own-toolstack.ts';

const [command, domain = '', cfgfile = '', release] = process.argv.slice(2);
const { signal, abort } = interruption();
await using host = await openOwnHost(libxlDomains(release));
const config = await readConfigFile(cfgfile);
const work = observe<object>((reporter) =>
  command === 'create'
    ? createSnapshot(host, { domain, config }, { reporter, signal })
    : revertSnapshot(host, { domain, config }, { reporter, signal }),
);
process.once('SIGINT', abort);
for await (const event of work) {
  if (event.type === 'phase' && event.event !== 'start')
    console.error(`${event.phase} ${event.event} after ${event.seconds} s`);
  if (event.type === 'log') console.error(event.message);
}
console.log(JSON.stringify(await work.result));

/** Makes Ctrl-C undo what was begun. */
function interruption(): { signal: AbortSignal; abort: () => void } {
  const controller = new AbortController();
  return { signal: controller.signal, abort: () => controller.abort() };
}
