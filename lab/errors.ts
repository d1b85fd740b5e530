/** An error that the lab itself reports: a message for people, and the folder with the evidence. */
export class LabError extends Error {
  override readonly name = 'LabError';
  readonly code: LabErrorCode;
  /** Folder with consoles and logs, if there is one. */
  evidence?: string;

  constructor(code: LabErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export type LabErrorCode =
  | 'usage'
  | 'host' // something is missing on this machine
  | 'build' // the image could not be built
  | 'boot' // dom0 did not come up
  | 'down' // no lab is up
  | 'command' // a command in dom0 failed
  | 'timeout'
  | 'guest'; // a guest did not start, or died

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Returns the errno name of a failed system call. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
