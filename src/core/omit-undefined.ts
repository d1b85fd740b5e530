/** The same fields; those that may be `undefined` may be missing instead. */
export type OmitUndefined<T> = {
  [Key in keyof T as undefined extends T[Key] ? never : Key]: T[Key];
} & {
  [Key in keyof T as undefined extends T[Key] ? Key : never]?: Exclude<T[Key], undefined>;
};

/** Leaves out fields that are `undefined`: a result has a key only if there is something to say. */
export function omitUndefined<T extends object>(fields: T): OmitUndefined<T> {
  const defined = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(defined) as OmitUndefined<T>;
}
