/** Runs commands in dom0 by ssh. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { LabError } from './errors.ts';
import { type ExecOptions, exec, type Outcome, quote, tail } from './proc.ts';

export interface SshTarget {
  readonly port: number;
  readonly key: string;
  /** Directory for the shared connection's socket. */
  readonly dir: string;
}

const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Runs commands in dom0, over one shared connection. */
export class Ssh {
  readonly #target: SshTarget;
  readonly #control: string | undefined;

  constructor(target: SshTarget) {
    this.#target = target;
    const control = join(target.dir, `ssh.${target.port}`);
    // A socket's path has a maximum length; ssh adds 17 characters while it creates one.
    this.#control = control.length < 85 ? control : undefined;
  }

  /** Tries once to reach dom0. If that works, a shared connection stays open. */
  async connect(timeoutS: number): Promise<boolean> {
    if (this.#control === undefined) {
      return (await exec('ssh', [...this.#options(timeoutS), this.#host, 'true'])).code === 0;
    }
    // The master needs a process of its own that holds none of our pipes, or nothing that waits for them
    // would end.
    const options = [...this.#options(timeoutS), '-o', 'ControlMaster=yes', '-o', 'ControlPersist=yes'];
    const child = spawn('ssh', ['-f', '-N', ...options, this.#host], { stdio: 'ignore' });
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    return code === 0;
  }

  /** Ends the shared connection. */
  async disconnect(): Promise<void> {
    if (this.#control !== undefined) await exec('ssh', ['-O', 'exit', ...this.#options(5), this.#host]);
  }

  /** Returns the arguments of an ssh that runs `command` in dom0. */
  args(command: string, options: { timeoutMs?: number; tty?: boolean } = {}): string[] {
    const shell = `PATH=${path}; export PATH; cd /root; `;
    const limited =
      options.timeoutMs === undefined
        ? command
        : `exec timeout -k 5 ${Math.max(1, Math.ceil(options.timeoutMs / 1000))} sh -c ${quote(command)}`;
    return [...this.#options(20), ...(options.tty ? ['-t'] : []), this.#host, `${shell}${limited}`];
  }

  async run(command: string, options: ExecOptions = {}): Promise<Outcome> {
    const { timeoutMs, ...rest } = options;
    const limit = timeoutMs === undefined ? {} : { timeoutMs };
    const done = await exec('ssh', this.args(command, limit), {
      ...rest,
      ...(timeoutMs === undefined ? {} : { timeoutMs: timeoutMs + 15_000 }),
    });
    if (done.code === 255 && /^(ssh:|ssh_|kex_|mux_client|client_loop|Connection )/m.test(done.stderr)) {
      throw new LabError('command', `dom0 does not answer: ${tail(done.stderr)}`);
    }
    if (timeoutMs !== undefined && (done.code === 124 || done.code === 137)) {
      throw new LabError(
        'timeout',
        `in dom0, not done within ${timeoutMs / 1000} s: ${command}\n${tail(`${done.stdout}\n${done.stderr}`)}`,
      );
    }
    return done;
  }

  get #host(): string {
    return 'root@127.0.0.1';
  }

  #options(timeoutS: number): string[] {
    const options = [
      'StrictHostKeyChecking=no',
      'UserKnownHostsFile=/dev/null',
      'GlobalKnownHostsFile=/dev/null',
      'IdentitiesOnly=yes',
      'PasswordAuthentication=no',
      'LogLevel=ERROR',
      'Compression=no',
      'Ciphers=chacha20-poly1305@openssh.com,aes128-ctr',
      `ConnectTimeout=${timeoutS}`,
      // A machine that froze is found after three minutes, not when its last command's time is up.
      'ServerAliveInterval=20',
      'ServerAliveCountMax=9',
      ...(this.#control === undefined ? [] : [`ControlPath=${this.#control}`]),
    ];
    const { key, port } = this.#target;
    return ['-F', 'none', '-i', key, '-p', String(port), ...options.flatMap((option) => ['-o', option])];
  }
}
