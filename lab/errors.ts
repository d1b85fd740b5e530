/** Everything the lab reports by itself: a message for people, and where the evidence was put. */
export class LabError extends Error {
  override readonly name = 'LabError';
  readonly code: LabErrorCode;
  /** Folder with consoles and logs, when there is one. */
  evidence?: string;

  constructor(code: LabErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export type LabErrorCode =
  | 'usage'
  | 'host' // something is missing on this machine
  | 'build' // the image could not be made
  | 'boot' // dom0 did not come up
  | 'down' // no lab is up
  | 'command' // a command in dom0 failed
  | 'timeout'
  | 'guest'; // a guest did not start, or died

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The errno name of a failed system call. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
