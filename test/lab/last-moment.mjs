// In dom0, beside an installed xlsnap: NAME. Suspends a domain and lets it go on, again and again, with time-outs that come
// closer and closer to the time that the domain takes. Tells each outcome, and the state that the domain was left in.
import { setTimeout as sleep } from 'node:timers/promises';
import { openHost } from 'xlsnap';

const [, , name] = process.argv;
const host = await openHost();
const { hypervisor, toolstack } = host;
try {
  const domid = await toolstack.findDomain(name);
  let short = 0;
  let long = 8000;
  for (let turn = 0; turn < 14; turn++) {
    const timeoutMs = Math.ceil((short + long) / 2);
    let outcome = 'suspended';
    try {
      await hypervisor.suspend(domid, { timeoutMs });
    } catch (error) {
      outcome = error.code;
    }
    const { shutdown } = await hypervisor.domainState(domid);
    if (outcome === 'suspended') {
      await hypervisor.resume(domid);
      long = timeoutMs;
    } else short = timeoutMs;
    const after = await hypervisor.domainState(domid);
    console.log(JSON.stringify({ timeoutMs, outcome, shutdown, left: after.shutdown, paused: after.paused }));
    await sleep(500);
  }
} finally {
  await host[Symbol.asyncDispose]();
}
