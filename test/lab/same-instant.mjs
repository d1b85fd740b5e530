// In dom0, beside an installed xlsnap: NAME OURS THEIRS [--live]. Takes a snapshot of a domain without its disks; before
// the domain resumes, xl saves it too: two files of one instant.
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { createSnapshot, openHost } from 'xlsnap';

const [, , name, ours, theirs, live] = process.argv;

function run(command, ...args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    out += text;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) =>
      code === 0 ? resolve(out.trim()) : reject(new Error(`${command}: ${code}`)),
    );
  });
}

/** xl asks the guest to suspend, which it has done already, so this has to acknowledge the request. */
async function saveByXl(domid) {
  const request = `/local/domain/${domid}/control/shutdown`;
  let saved = false;
  const save = run('xl', 'save', '-c', name, theirs).finally(() => {
    saved = true;
  });
  while (!saved) {
    if ((await run('xenstore-read', request).catch(() => '')) === 'suspend') {
      await run('xenstore-write', request, '');
      break;
    }
    await sleep(100);
  }
  await save;
}

/** Returns the same object with some methods replaced. */
function withMethods(target, methods) {
  return new Proxy(target, {
    get(_, key) {
      if (key in methods) return methods[key];
      const value = target[key];
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

const host = await openHost();
try {
  const hypervisor = withMethods(host.hypervisor, { resume: saveByXl });
  const config = { memoryPath: ours, disks: [] };
  const request = { domain: name, name: 'same', config, ...(live === undefined ? {} : { live: true }) };
  const { pages, downtimeSeconds } = await createSnapshot(withMethods(host, { hypervisor }), request);
  console.log(JSON.stringify({ pages, downtimeSeconds }));
} finally {
  await host[Symbol.asyncDispose]();
}
