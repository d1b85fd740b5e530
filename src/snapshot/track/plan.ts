/** Decides whether a domain will be tracked after a create. */
import { dirname } from 'node:path';
import { UsageError } from '../../core/errors.ts';
import { nearestDirectory } from '../../core/files.ts';
import type { CreateRequest } from '../api.ts';
import type { DomainState, Host } from '../ports.ts';

/**
 * @param target where the memory goes
 * @param warn is called with what makes every create copy all memory
 * @throws {UsageError} If the request contradicts itself
 */
export async function planTracking(
  host: Pick<Host, 'memoryClones'>,
  { track = false, live = false, tuning }: Pick<CreateRequest, 'track' | 'live' | 'tuning'>,
  { type }: Pick<DomainState, 'type'>,
  target: { readonly memoryPath: string; readonly stream: boolean },
  warn: (text: string) => void,
): Promise<boolean> {
  if (!track) return false;
  if (!live) {
    throw new UsageError('TRACK_LIVE', 'a guest can be tracked only from a live snapshot on', {
      hint: 'add --live, or omit --track',
    });
  }
  if (target.stream) {
    throw new UsageError('TRACK_STREAM', 'the next snapshot cannot continue from a stream', {
      hint: 'write the memory to a file, or omit --track',
    });
  }
  const obstacle = await trackingObstacle(host, type, target.memoryPath);
  const untracked =
    tuning?.checksums === false || tuning?.batchPages !== undefined ? 'of --tuning' : obstacle;
  if (untracked === undefined) return true;
  warn(`the guest will not be tracked, and each snapshot copies all of its memory, because ${untracked}`);
  return false;
}

/** Finds out why a guest cannot be tracked from a snapshot on whose memory goes to `memoryPath`; `undefined` if it can. */
export async function trackingObstacle(
  { memoryClones }: Pick<Host, 'memoryClones'>,
  type: DomainState['type'],
  memoryPath: string,
): Promise<string | undefined> {
  if (type === 'pv') return 'nothing shows whether the dirty log of a PV guest is unbroken';
  if (memoryClones === undefined) return 'this toolstack cannot clone files';
  return await memoryClones.obstacle(await nearestDirectory(dirname(memoryPath)));
}
