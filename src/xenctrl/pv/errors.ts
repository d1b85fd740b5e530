import { DomainError } from '../../core/errors.ts';

/** A PV guest whose own tables make no sense: its kernel is broken, hostile, or busy changing them. */
export function badGuest(
  code: string,
  message: string,
  data: Readonly<Record<string, unknown>> = {},
): DomainError {
  return new DomainError(code, message, {
    data,
    hint: "the guest's kernel wrote this itself; try again once, and if it stays, the guest has to be rebooted",
  });
}

export function hexFrame(frame: number): string {
  return `0x${frame.toString(16)}`;
}
