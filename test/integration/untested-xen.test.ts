/** How a release of Xen is chosen, by libraries made with the C compiler that claim to be of any. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ABIS } from '../../src/xenctrl/abi.ts';
import {
  FOREIGNMEMORY,
  TOOLLOG,
  XENCTRL,
  XENCTRL_PRIVATE,
  XENGUEST,
} from '../../src/xenctrl/declarations.ts';

const obstacle = spawnSync('gcc', ['--version']).error === undefined ? undefined : 'no gcc';
if (obstacle !== undefined) console.warn(`skipped: the choice of a release of Xen: ${obstacle}`);

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-stub-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/**
 * All functions that are called, of which these do something: xc_version says which release runs, and
 * xc_domain_getinfolist knows dom0 and domain 5, at the offsets of xen/domctl.h unless `shift` moves them, in a struct of `size` bytes.
 */
function stubSource(): string {
  const own = ['xc_interface_open', 'xc_version', 'xc_domain_getinfolist'];
  const names = [TOOLLOG, FOREIGNMEMORY, XENCTRL, XENCTRL_PRIVATE, XENGUEST].flatMap((library) =>
    Object.keys(library.functions),
  );
  const rest = [...new Set(names)].filter((name) => !own.includes(name));
  return `#include <stdlib.h>
#include <string.h>
${rest.map((name) => `long ${name}(void) { return 1; }`).join('\n')}
void *xc_interface_open(void *a, void *b, unsigned c) { static int it; return &it; }
int xc_version(void *x, int cmd, char *arg) {
  if (cmd == 0) return atoi(getenv("STUB_MAJOR")) << 16 | atoi(getenv("STUB_MINOR"));
  strcpy(arg, ".0-stub");
  return 0;
}
int xc_domain_getinfolist(void *x, unsigned domid, unsigned max, char *info) {
  int shift = getenv("STUB_SHIFT") ? atoi(getenv("STUB_SHIFT")) : 0;
  unsigned long pages = domid == 0 ? 262144 : 32768;
  memset(info, 0, 112 + shift);
  *(unsigned short *)info = domid;
  memcpy(info + shift + 8, &pages, 8);
  memset(info + shift + 76, domid, 16);
  return 1;
}
`;
}

function open(release: string, args: readonly string[] = [], env: Record<string, string> = {}): unknown {
  const [major = '', minor = ''] = release.split('.');
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ['--import', import.meta.resolve('tsx'), join(import.meta.dirname, '../support/open-xen.ts'), ...args],
    {
      encoding: 'utf8',
      env: { ...process.env, LD_LIBRARY_PATH: directory, STUB_MAJOR: major, STUB_MINOR: minor, ...env },
    },
  );
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
  return JSON.parse(stdout);
}

describe.skipIf(obstacle !== undefined)('with libraries of all releases up to 4.23', () => {
  beforeAll(() => {
    const source = join(directory, 'stub.c');
    writeFileSync(source, stubSource());
    const stub = join(directory, 'stub.so');
    const { status, stderr } = spawnSync('gcc', ['-shared', '-fPIC', '-w', '-o', stub, source], {
      encoding: 'utf8',
    });
    expect(status, stderr).toBe(0);
    for (const release of [...ABIS.map((abi) => abi.release), '4.23']) {
      for (const library of ['libxenctrl', 'libxenguest']) {
        symlinkSync(stub, join(directory, `${library}.so.${release}`));
      }
    }
    for (const { soname } of [TOOLLOG, FOREIGNMEMORY]) symlinkSync(stub, join(directory, soname));
  });

  test.each(ABIS.map(({ release, proof }) => [release, proof]))(
    'Xen %s is opened by its own, and is known: %s',
    (release, proof) => {
      expect(open(release)).toMatchObject({
        version: { major: 4, minor: Number(release.slice(2)), extra: '.0-stub' },
        proof,
        uuid: '05050505-0505-0505-0505-050505050505',
        memory: 128 * 2 ** 20,
      });
    },
  );

  test('Xen 4.23 is refused, and the message names the option', () => {
    expect(open('4.23')).toMatchObject({
      code: 'XEN_UNTESTED',
      exit_code: 13,
      hint: expect.stringContaining('--untested-xen'),
    });
  });

  test('with the option it is opened, for guests that are not PV', () => {
    expect(open('4.23', ['--untested'])).toMatchObject({ proof: 'none', pv: 'XEN_UNTESTED_PV' });
  });

  test('an older Xen is refused with the option too', () => {
    expect(open('4.16', ['--untested'])).toMatchObject({ code: 'XEN_UNSUPPORTED' });
  });

  test('a struct that has grown does no harm, and fields that have moved are noticed', () => {
    expect(open('4.23', ['--untested'], { STUB_SHIFT: '3000' })).toMatchObject({ code: 'XEN_SELF_TEST' });
  });

  test('a release whose libraries are not there is named with them', () => {
    expect(open('4.24', ['--untested'])).toMatchObject({
      code: 'XEN_LIBRARY',
      message: 'the libraries of the running Xen (4.24) cannot be used',
      hint: expect.stringContaining('libxenctrl.so.4.24'),
    });
  });
});
