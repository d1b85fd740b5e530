import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { serviceWarnings } from '../../../../src/toolstack/restore-checks/service.ts';
import { tempDir } from '../../../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
beforeEach(async () => {
  directory = await tempDir();
});
afterEach(() => directory[Symbol.asyncDispose]());

async function warn(cgroup: string, properties = 'KillMode=control-group\nRemainAfterExit=no\n') {
  const path = join(directory.path, 'cgroup');
  await writeFile(path, cgroup);
  const asked: string[] = [];
  const warnings = await serviceWarnings({
    cgroup: path,
    show: async (service) => {
      asked.push(service);
      return properties;
    },
  });
  return { warnings, asked };
}

describe('a revert that runs in a systemd service', () => {
  it('warns that the domain ends with the service', async () => {
    const { warnings, asked } = await warn('0::/system.slice/reset.service\n');
    expect(asked).toEqual(['reset.service']);
    expect(warnings).toEqual([expect.stringMatching(/reset\.service.*KillMode=process/)]);
  });

  it('finds the service in the hierarchy that systemd uses with the old control groups', async () => {
    const { warnings } = await warn('4:cpu:/a.service\n1:name=systemd:/system.slice/reset.service\n');
    expect(warnings).toEqual([expect.stringContaining('reset.service')]);
  });

  it.each(['KillMode=process', 'KillMode=none', 'KillMode=control-group\nRemainAfterExit=yes'])(
    'says nothing where the service leaves its processes alone: %s',
    async (properties) => {
      expect((await warn('0::/system.slice/reset.service\n', properties)).warnings).toEqual([]);
    },
  );

  it.each([
    ['a session', '0::/user.slice/user-0.slice/session-3.scope\n'],
    ['a session of a user manager', '0::/user.slice/user-0.slice/user@0.service/app.slice/run-1.scope\n'],
    ['no unit', '0::/\n'],
    ['no control groups', ''],
  ])('says nothing in %s', async (_what, cgroup) => {
    expect(await warn(cgroup)).toEqual({ warnings: [], asked: [] });
  });

  it('warns where systemctl does not answer', async () => {
    const path = join(directory.path, 'cgroup');
    await writeFile(path, '0::/system.slice/reset.service\n');
    const warnings = await serviceWarnings({
      cgroup: path,
      show: async () => {
        throw new Error('no systemctl');
      },
    });
    expect(warnings).toHaveLength(1);
  });
});
