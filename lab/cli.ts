/** The command line of the lab: `npm run lab -- COMMAND`. */
import { spawn } from 'node:child_process';
import { basename } from 'node:path';
import { type ParseArgsConfig, parseArgs } from 'node:util';
import { LabError, messageOf } from './errors.ts';
import { type GuestSpec, type GuestType, parseDisk } from './guests.ts';
import { Lab, type LabOptions } from './lab.ts';
import { tail } from './proc.ts';
import { defaultXen, releases } from './releases.ts';

const help = `Real Xen in a virtual machine of its own (QEMU).

  npm run lab -- up                     build what is missing, boot, or use what is up
  npm run lab -- run COMMAND...         in dom0, as root; its exit code is ours
  npm run lab -- ssh                    a shell in dom0
  npm run lab -- guest pv|pvh|hvm ...   start a guest that counts
  npm run lab -- console NAME           what a guest wrote to its console
  npm run lab -- put FILE DEST          copy a file, or a folder's contents, to dom0
  npm run lab -- get FILE DEST          copy from dom0
  npm run lab -- status                 is it up; exit code 3 when not
  npm run lab -- down                   stop it (this lab's own QEMU, nothing else)

Options of every command:
  --xen VERSION        ${releases.map((r) => r.xen).join(' or ')} (${defaultXen})
  --xen-tree DIR       a Xen of your own: what make install-xen install-tools DESTDIR=DIR has installed
  --help

Options of up:
  --memory MIB         RAM of the machine (4096)
  --dom0-memory MIB    RAM of dom0 (1024)
  --cold               boot; neither load nor save a booted state

Options of guest:
  --name NAME          (the type)
  --mem MIB            (128)
  --vcpus N            (1)
  --disk VDEV:FORMAT:MIB[:BACKEND]
                           qcow2, raw, lvm, thin, raw-xfs or raw-btrfs, served by qdisk or phy (blkback);
                           may be repeated (xvda:qcow2:64; --disk none for no disk)
  --tick MS            counter's period (100)
  --dirty MIB:RATE     a second process that dirties MIB MiB at RATE pages per second
  --reboot WHAT        on_reboot: preserve (default), restart, destroy
  --cfg LINE           one more line of configuration; may be repeated

Folder of images, saved states, logs of failures: $XLSNAP_LAB_DIR, else xlsnap-lab in the user's cache.
`;

const options = {
  xen: { type: 'string' },
  'xen-tree': { type: 'string' },
  help: { type: 'boolean', short: 'h' },
  memory: { type: 'string' },
  'dom0-memory': { type: 'string' },
  cold: { type: 'boolean' },
  name: { type: 'string' },
  mem: { type: 'string' },
  vcpus: { type: 'string' },
  disk: { type: 'string', multiple: true },
  tick: { type: 'string' },
  dirty: { type: 'string' },
  reboot: { type: 'string' },
  cfg: { type: 'string', multiple: true },
} as const satisfies ParseArgsConfig['options'];

async function main(argv: readonly string[]): Promise<number> {
  // Everything after `run` is for dom0, options included.
  const at = argv.findIndex((arg) => arg === 'run' || arg === 'ssh');
  const own = at === -1 ? argv : argv.slice(0, at + 1);
  const rest = at === -1 ? [] : argv.slice(at + 1).filter((arg, i) => !(i === 0 && arg === '--'));
  const { values, positionals } = parseArgs({ args: [...own], options, allowPositionals: true });
  const [command, ...args] = positionals;
  if (values.help === true || command === undefined || command === 'help') {
    process.stdout.write(help);
    return command === undefined && values.help !== true ? 2 : 0;
  }
  const labOptions: LabOptions = {
    ...(values.xen === undefined ? {} : { release: values.xen }),
    ...(values['xen-tree'] === undefined ? {} : { xenTree: values['xen-tree'] }),
    ...(values.memory === undefined ? {} : { memoryMiB: number('--memory', values.memory) }),
    ...(values['dom0-memory'] === undefined
      ? {}
      : { dom0MemoryMiB: number('--dom0-memory', values['dom0-memory']) }),
    ...(values.cold === undefined ? {} : { cold: values.cold }),
  };
  const lab = Lab.open(labOptions);
  switch (command) {
    case 'up': {
      count(args, 0, 0, 'up');
      const { port } = await lab.up();
      process.stdout.write(`up: ssh on 127.0.0.1:${port}; try: npm run lab -- run xl info\n`);
      return 0;
    }
    case 'down':
      count(args, 0, 0, 'down');
      await lab.down();
      return 0;
    case 'run':
      if (rest.length === 0) throw new LabError('usage', 'run: which command?');
      return await ssh(lab.sshArgs(rest.join(' '), false));
    case 'ssh':
      return await ssh(lab.sshArgs(rest.length === 0 ? 'exec sh -l' : rest.join(' '), true));
    case 'status': {
      const running = lab.status();
      if (running === undefined) process.stdout.write('no lab is up\n');
      else process.stdout.write(`${JSON.stringify({ ...running, console: lab.consoleFile }, null, 2)}\n`);
      return running === undefined ? 3 : 0;
    }
    case 'put': {
      const [from = '', to = ''] = count(args, 1, 2, 'put FILE [DEST]');
      await lab.copyIn(from, to === '' ? `/root/${basename(from)}` : to);
      return 0;
    }
    case 'get': {
      const [from = '', to = ''] = count(args, 1, 2, 'get FILE [DEST]');
      await lab.copyOut(from, to === '' ? basename(from) : to);
      return 0;
    }
    case 'console': {
      const [name = ''] = count(args, 1, 1, 'console NAME');
      process.stdout.write(await lab.guestConsole(name));
      return 0;
    }
    case 'guest': {
      const [type = ''] = count(args, 1, 1, 'guest pv|pvh|hvm');
      const guest = await lab.startGuest(guestSpec(type, values));
      process.stdout.write(`${guest.name} runs as domain ${guest.domid}; console: ${guest.console}\n`);
      return 0;
    }
    default:
      throw new LabError('usage', `no such command: ${command}; try: npm run lab -- --help`);
  }
}

interface GuestValues {
  readonly name?: string | undefined;
  readonly mem?: string | undefined;
  readonly vcpus?: string | undefined;
  readonly disk?: readonly string[] | undefined;
  readonly tick?: string | undefined;
  readonly dirty?: string | undefined;
  readonly reboot?: string | undefined;
  readonly cfg?: readonly string[] | undefined;
}

function guestSpec(type: string, values: GuestValues): GuestSpec {
  if (!isGuestType(type)) throw new LabError('usage', `guest: pv, pvh or hvm, not ${type}`);
  const { reboot } = values;
  if (reboot !== undefined && reboot !== 'preserve' && reboot !== 'restart' && reboot !== 'destroy') {
    throw new LabError('usage', '--reboot: preserve, restart or destroy');
  }
  const [mib = '', rate = '1000'] = values.dirty?.split(':') ?? [];
  return {
    type,
    name: values.name ?? type,
    disks: (values.disk ?? ['xvda:qcow2:64']).filter((disk) => disk !== 'none').map(parseDisk),
    ...(values.mem === undefined ? {} : { memoryMiB: number('--mem', values.mem) }),
    ...(values.vcpus === undefined ? {} : { vcpus: number('--vcpus', values.vcpus) }),
    ...(values.tick === undefined ? {} : { tickMs: number('--tick', values.tick) }),
    ...(mib === '' ? {} : { dirty: { mib: number('--dirty', mib), rate: number('--dirty', rate) } }),
    ...(reboot === undefined ? {} : { onReboot: reboot }),
    ...(values.cfg === undefined ? {} : { extraCfg: values.cfg }),
  };
}

function isGuestType(type: string): type is GuestType {
  return type === 'pv' || type === 'pvh' || type === 'hvm';
}

function number(what: string, text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new LabError('usage', `${what}: not a number: ${text}`);
  return Number(text);
}

function count(args: readonly string[], least: number, most: number, usage: string): readonly string[] {
  if (args.length < least || args.length > most)
    throw new LabError('usage', `usage: npm run lab -- ${usage}`);
  return args;
}

/** Runs ssh with our own standard streams, and returns the exit code of the command. */
async function ssh(args: readonly string[]): Promise<number> {
  const child = spawn('ssh', args, { stdio: 'inherit' });
  return await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? 255));
  });
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const usage = error instanceof TypeError || (error instanceof LabError && error.code === 'usage');
  const known = usage || error instanceof LabError;
  process.stderr.write(
    `lab: ${known || !(error instanceof Error) ? messageOf(error) : (error.stack ?? '')}\n`,
  );
  if (error instanceof LabError && error.evidence !== undefined) {
    process.stderr.write(`lab: logs: ${tail(error.evidence, 1)}\n`);
  }
  process.exitCode = usage ? 2 : 1;
}
