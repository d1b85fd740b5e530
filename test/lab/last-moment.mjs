// In dom0, beside an installed xlsnap: NAME. Suspends a domain and resumes it, repeatedly, with time-outs
// about as long as it takes to answer. Prints each outcome, and the state that the domain was left in.
import { setTimeout as sleep } from 'node:timers/promises';
import { openHost } from 'xlsnap';

const [, , name] = process.argv;
const host = await openHost();
const { hypervisor, toolstack } = host;
try {
  const domid = await toolstack.findDomain(name);
  for (const timeoutMs of [0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 5, 10]) {
    let outcome = 'suspended';
    try {
      await hypervisor.suspend(domid, { timeoutMs });
    } catch (error) {
      outcome = error.code;
    }
    const { shutdown } = await hypervisor.domainState(domid);
    if (outcome === 'suspended') await hypervisor.resume(domid);
    const after = await hypervisor.domainState(domid);
    console.log(JSON.stringify({ timeoutMs, outcome, shutdown, left: after.shutdown, paused: after.paused }));
    await sleep(500);
  }
} finally {
  await host[Symbol.asyncDispose]();
}
