/** Asks the C compiler what Xen's headers say about everything in src/xenctrl/abi.ts and declarations.ts. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  ABIS,
  DOMCTL,
  DOMINF,
  HVM_PARAM,
  PFINFO,
  PHYSCAP,
  PV_GUESTS,
  SHADOW_OP,
  SHUTDOWN,
  XENMEM,
  XENVER,
  XTL,
} from '../../src/xenctrl/abi.ts';
import * as declarations from '../../src/xenctrl/declarations.ts';

/** What a release's headers say; the content of fixtures/abi/<release>.json. */
export interface AbiFacts {
  domctlInterfaceVersion: number;
  domainInfo: Record<string, number>;
  cpuidLeafSize: number;
  msrEntrySize: number;
  hypercallBufferSize: number;
  extraversionSize: number;
  /** Size and offsets of structs, by their names in C. */
  structs: Record<string, Record<string, number>>;
  constants: Record<string, number>;
  /** Prototypes that match the headers', according to the compiler. */
  prototypes: Record<string, string>;
}

/** Names of all constants in the table. */
export const CONSTANTS: Readonly<Record<string, number>> = {
  ...DOMINF,
  ...SHUTDOWN,
  ...PFINFO,
  ...SHADOW_OP,
  ...DOMCTL,
  ...XENMEM,
  ...PHYSCAP,
  ...XENVER,
  ...HVM_PARAM,
  ...XTL,
};

/** All structs of one release's table, by their names in C. */
export function structs(abi: (typeof ABIS)[number] | undefined = ABIS[0]): AbiFacts['structs'] {
  const all: AbiFacts['structs'] = { ...abi?.pvCalls };
  for (const { width, shared_info, vcpu_guest_context } of PV_GUESTS) {
    const suffix = width === 8 ? 'x86_64' : 'x86_32';
    all[`shared_info_${suffix}`] = shared_info;
    all[`vcpu_guest_context_${suffix}`] = vcpu_guest_context;
  }
  return all;
}

/** The declarations as C function types, name to type; without those that no installed header has. */
export function prototypes(): Record<string, string> {
  const all: Record<string, string> = {};
  for (const library of Object.values(declarations)) {
    if (library.headers.length === 0) continue;
    for (const [name, { result, parameters }] of Object.entries(library.functions)) {
      all[name] = `${result} (${parameters.length === 0 ? 'void' : parameters.join(', ')})`;
    }
  }
  return all;
}

/** Why the headers cannot be checked on this machine, if so. */
export function probeObstacle(include = '/usr/include'): string | undefined {
  if (!existsSync(join(include, 'xenctrl.h'))) return `no ${include}/xenctrl.h: libxen-dev is not installed`;
  if (spawnSync('gcc', ['--version']).error !== undefined) return 'no gcc';
  return undefined;
}

/** Throws an Error with the compiler's words if a name or a prototype differs from the headers. */
export function probeAbi(include = '/usr/include'): AbiFacts {
  const directory = mkdtempSync(join(tmpdir(), 'xlsnap-abi-'));
  try {
    const source = join(directory, 'probe.c');
    const program = join(directory, 'probe');
    writeFileSync(source, cSource());
    run('gcc', ['-Wall', '-Werror', '-Wno-deprecated-declarations', '-I', include, '-o', program, source]);
    return { ...JSON.parse(run(program, [])), prototypes: prototypes() };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function run(command: string, args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} failed:\n${stderr}`);
  return stdout;
}

function cSource(): string {
  const headers = Object.values(declarations).flatMap((library) => library.headers);
  const fields = Object.keys(ABIS[0]?.domainInfo ?? {}).filter((name) => name !== 'size');
  const number = (label: string, value: string) => `  printf("\\"${label}\\":%ld,", (long)(${value}));`;
  return `#define _GNU_SOURCE
#define __XEN_TOOLS__ 1
#include <stddef.h>
#include <stdio.h>
${[...new Set(headers)].map((header) => `#include <${header}>`).join('\n')}
#include <xen/domctl.h>
#include <xen/memory.h>
#include <xen/sysctl.h>
#include <xen/foreign/x86_32.h>
#include <xen/foreign/x86_64.h>
#include <xen/sched.h>
#include <xen/version.h>
#include <xen/hvm/params.h>
${Object.entries(prototypes())
  .map(([name, type]) => {
    const [result, parameters] = [type.slice(0, type.indexOf('(')), type.slice(type.indexOf('('))];
    return `_Static_assert(__builtin_types_compatible_p(__typeof__(${name}), ${result}${parameters}), "${name}");`;
  })
  .join('\n')}
int main(void) {
  printf("{");
${number('domctlInterfaceVersion', 'XEN_DOMCTL_INTERFACE_VERSION')}
  printf("\\"domainInfo\\":{");
${fields.map((name) => number(name, `offsetof(xc_domaininfo_t, ${name})`)).join('\n')}
  printf("\\"size\\":%zu},", sizeof(xc_domaininfo_t));
${number('cpuidLeafSize', 'sizeof(xen_cpuid_leaf_t)')}
${number('msrEntrySize', 'sizeof(xen_msr_entry_t)')}
${number('hypercallBufferSize', 'sizeof(xc_hypercall_buffer_t)')}
${number('extraversionSize', 'sizeof(xen_extraversion_t)')}
  printf("\\"structs\\":{");
${Object.entries(structs())
  .map(([name, layout], i) => {
    const offsets = Object.keys(layout).filter((field) => field !== 'size');
    return `  printf("${i === 0 ? '' : ','}\\"${name}\\":{");
${offsets.map((field) => number(field, `offsetof(struct ${name}, ${field})`)).join('\n')}
  printf("\\"size\\":%zu}", sizeof(struct ${name}));`;
  })
  .join('\n')}
  printf("},");
  printf("\\"constants\\":{");
${Object.keys(CONSTANTS)
  .map((name, i) => `  printf("${i === 0 ? '' : ','}\\"${name}\\":%ld", (long)${name});`)
  .join('\n')}
  printf("}}\\n");
  return 0;
}
`;
}
