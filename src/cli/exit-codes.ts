/** Meanings of the exit codes. */
import { EXIT } from '../core/errors.ts';

/** The meaning of each exit code, for the help and docs/scripting.md. */
export const EXIT_MEANINGS: Readonly<Record<keyof typeof EXIT, string>> = {
  ok: 'done',
  bug: 'a bug in xlsnap',
  usage: 'wrong arguments',
  config: 'the cfgfile is wrong or cannot be read',
  domain: 'no such domain, or its state does not allow this',
  preflight: 'a check failed before anything was changed',
  suspend: 'the guest did not suspend; it keeps running',
  xen: 'Xen refused a call',
  disk: 'a disk image, QEMU or qemu-img refused',
  format: 'a memory file is damaged or of an unknown kind',
  risk: 'the revert is risky; --accept or --force accepts the risks',
  restore: 'the restore failed after the domain was destroyed',
  output: 'a file could not be written',
  environment: 'the host lacks something that xlsnap needs',
  recover: 'what a killed command left could not be fully undone or finished',
  partial: 'some snapshots were deleted, and others could not be',
  interrupted: 'ended by SIGINT; 143 by SIGTERM, 129 by SIGHUP',
};

/** Renders the table at the end of `xlsnap --help`. */
export function exitCodeTable(): string {
  const rows = Object.entries(EXIT).map(
    ([name, code]) => `  ${String(code).padStart(3)}  ${EXIT_MEANINGS[name as keyof typeof EXIT]}`,
  );
  return ['Exit codes:', ...rows].join('\n');
}
