import { readFileSync, rmSync } from 'node:fs';
import { fc, test } from '@fast-check/vitest';
import { expect } from 'vitest';
import { parseConfig } from '../../src/config/parse.ts';
import { PreflightError, RiskError } from '../../src/core/errors.ts';
import type { RevertRequest } from '../../src/snapshot/api.ts';
import { createSnapshot } from '../../src/snapshot/create/create.ts';
import { revertSnapshot } from '../../src/snapshot/revert/revert.ts';
import { contentOf, FakeHost } from '../../src/testing/fake-host.ts';
import { fastDirectory } from '../support/scene.ts';

const VDEVS = ['xvda', 'xvdb', 'hdc'];

type Step =
  | { do: 'create'; name: string; kinds: ('internal' | 'external')[] }
  | { do: 'write' }
  | { do: 'revert'; which: number; force: boolean };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constant('create' as const),
    name: fc.stringMatching(/^[a-z][a-z0-9 '_.-]{0,6}[a-z0-9]$/),
    kinds: fc.array(fc.constantFrom('internal' as const, 'external' as const), {
      minLength: 3,
      maxLength: 3,
    }),
  }),
  fc.record({ do: fc.constant('write' as const) }),
  fc.record({ do: fc.constant('revert' as const), which: fc.nat(9), force: fc.boolean() }),
);

/** What was snapshotted, and whether a forced revert may have damaged it since. */
interface Taken {
  request: RevertRequest;
  contents: Record<string, string>;
  spoilt: boolean;
}

const contents = (host: FakeHost): Record<string, string> =>
  Object.fromEntries([...host.inUse].map(([vdev, path]) => [vdev, contentOf(path)]));

// Whatever was done before: a revert that is not refused restores the content of every covered disk.
test.prop([fc.array(step, { minLength: 4, maxLength: 14 }), fc.integer({ min: 1, max: 3 })], { numRuns: 60 })(
  'a revert restores what the disks had at the snapshot',
  async (steps, disks) => {
    const directory = fastDirectory('xlsnap-property-');
    try {
      const host = new FakeHost({ directory, disks: VDEVS.slice(0, disks).map((vdev) => ({ vdev })) });
      const taken: Taken[] = [];
      for (const [i, one] of steps.entries()) {
        if (one.do === 'write') host.write(`written in step ${i}`);
        else if (one.do === 'create') {
          const made = await create(host, directory, i, one);
          if (made !== undefined) taken.push(made);
        } else {
          const target = taken[one.which % Math.max(1, taken.length)];
          if (target !== undefined) await revert(host, taken, target, one.force);
        }
        expect(host.runs).toBe(true);
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
  60_000,
);

async function create(
  host: FakeHost,
  directory: string,
  i: number,
  { name, kinds }: Extract<Step, { do: 'create' }>,
): Promise<Taken | undefined> {
  const entries = [...host.inUse.keys()].map((vdev, at) =>
    kinds[at] === 'internal' ? `,,${vdev}` : `${directory}/${i}-${vdev}.qcow2,qcow2,${vdev}`,
  );
  const text = `name="${name}"\nmemory_path="${directory}/${i}.save"\ndisks=[${entries.map((entry) => `"${entry}"`)}]`;
  const before = contents(host);
  try {
    const { plan } = await createSnapshot(host, { domain: 'guest1', config: parseConfig(text, 'x') });
    const config = parseConfig(readFileSync(plan.configPath ?? '', 'utf8'), plan.configPath);
    return { request: { domain: 'guest1', config }, contents: before, spoilt: false };
  } catch (error) {
    // The same name again in the same image.
    if (!(error instanceof PreflightError)) throw error;
    expect(error.message).toContain('already');
    return undefined;
  }
}

async function revert(host: FakeHost, taken: readonly Taken[], target: Taken, force: boolean): Promise<void> {
  const before = contents(host);
  try {
    const { plan } = await revertSnapshot(host, { ...target.request, force });
    if (!target.spoilt) expect(contents(host)).toEqual(target.contents);
    // What --force overrode may have cost the other snapshots; without it nothing may be lost.
    if (plan.risks.length > 0) for (const other of taken) if (other !== target) other.spoilt = true;
  } catch (error) {
    if (error instanceof PreflightError) expect(target.spoilt).toBe(true);
    else if (!(error instanceof RiskError)) throw error;
    expect(contents(host)).toEqual(before);
  }
}
