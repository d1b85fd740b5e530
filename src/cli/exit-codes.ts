import { EXIT } from '../core/errors.ts';

/** What each exit code means, for the help and docs/scripting.md. */
export const EXIT_MEANINGS: Readonly<Record<keyof typeof EXIT, string>> = {
  ok: 'done',
  bug: 'a bug in xlsnap',
  usage: 'wrong arguments',
  config: 'the cfgfile is wrong or cannot be read',
  domain: 'no such domain, or not in a state for it',
  preflight: 'a check before the work failed; nothing was touched',
  suspend: 'the guest did not suspend; it goes on',
  xen: 'Xen refused a call',
  disk: 'a disk image, QEMU or qemu-img refused',
  format: 'a memory file is damaged or of an unknown kind',
  risk: 'the revert is risky; --accept or --force accepts that',
  restore: 'the restore failed after the domain was destroyed',
  output: 'a file could not be written',
  environment: 'something of the host is missing',
  recover: 'something of a killed create or revert could not be undone',
  interrupted: 'ended by SIGINT; 143 by SIGTERM, 129 by SIGHUP',
};

/** The table at the end of `xlsnap --help`. */
export function exitCodeTable(): string {
  const rows = Object.entries(EXIT).map(
    ([name, code]) => `  ${String(code).padStart(3)}  ${EXIT_MEANINGS[name as keyof typeof EXIT]}`,
  );
  return ['Exit codes:', ...rows].join('\n');
}
