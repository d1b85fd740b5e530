/** Errors about the tables of a PV guest. */
import { DomainError } from '../../core/errors.ts';

/**
 * Makes the error for a PV guest whose own tables make no sense: its kernel is broken, hostile, or busy
 * changing them.
 */
export function badGuest(
  code: string,
  message: string,
  data: Readonly<Record<string, unknown>> = {},
): DomainError {
  return new DomainError(code, message, {
    data,
    hint: "the guest's kernel wrote this itself; try again, and reboot the guest if that does not help",
  });
}

export function hexFrame(frame: number): string {
  return `0x${frame.toString(16)}`;
}
