/**
 * Which of the faults a run plants. They are tens of thousands, so a run of the unit tests plants one in five, beginning
 * anywhere; XLSNAP_FAULTS=3/5 repeats the third of five parts, and XLSNAP_FAULTS=all plants all, as `npm test` does.
 */

const PARTS = 5;
/** So few are planted in any case. */
const FEW = 5;

interface Share {
  readonly part: number;
  readonly parts: number;
}

/**
 * Reads XLSNAP_FAULTS.
 * @throws {Error} If it is neither `all` nor a part such as `3/5`
 */
export function faultShare(setting: string | undefined, random: () => number = Math.random): Share {
  if (setting === undefined || setting === '')
    return { part: Math.floor(random() * PARTS) + 1, parts: PARTS };
  if (setting === 'all') return { part: 1, parts: 1 };
  const [, part, parts] = /^([1-9][0-9]*)\/([1-9][0-9]*)$/.exec(setting) ?? [];
  if (part === undefined || Number(part) > Number(parts)) {
    throw new Error(`XLSNAP_FAULTS=${setting}: expected all, or a part such as 3/5`);
  }
  return { part: Number(part), parts: Number(parts) };
}

/** Returns the items of that share. */
export function shareOf<T>(items: Iterable<T>, { part, parts }: Share): readonly T[] {
  const all = [...items];
  return all.length <= FEW ? all : all.filter((_, at) => at % parts === part - 1);
}

let share: Share | undefined;

/** Which faults this run plants. Says so once in each process, unless it is all. */
function ownShare(): Share {
  if (share === undefined) {
    share = faultShare(process.env['XLSNAP_FAULTS']);
    const { part, parts } = share;
    if (parts > 1) {
      console.log(
        `  XLSNAP_FAULTS=${part}/${parts}: one fault in ${parts} is planted; all: XLSNAP_FAULTS=all`,
      );
    }
  }
  return share;
}

/** Whether this run plants all faults: then every outcome that there may be must have been seen. */
export function plantsAll(): boolean {
  return ownShare().parts === 1;
}

/** Returns the faults that this run plants. */
export function planted<T>(faults: Iterable<T>): readonly T[] {
  return shareOf(faults, ownShare());
}
