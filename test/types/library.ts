/** What the types of the package promise to its users; compiled against dist/, never run. */
import { expectTypeOf } from 'vitest';
import {
  type CreateResult,
  compareMemoryFiles,
  createSnapshot,
  type Host,
  type Inspection,
  inspectMemoryFile,
  type LibxlConfig,
  LibxlToolstack,
  type ObservedWork,
  observe,
  openHost,
  type ProgressEvent,
  type RevertResult,
  revertSnapshot,
  type SnapshotPlan,
  type Toolstack,
  toDomid,
  verifyMemoryFile,
  XlsnapError,
} from 'xlsnap';
import { ConfigError, readConfigFile, type SnapshotConfig } from 'xlsnap/config';
import { QmpClient } from 'xlsnap/qmp';
import { FileSource, type LocatedItem, readStream } from 'xlsnap/savefmt';
import { FakeHost } from 'xlsnap/testing';
import { XenControl } from 'xlsnap/xenctrl';
import { XenstoreClient } from 'xlsnap/xenstore';

declare const host: Host;
declare const signal: AbortSignal;
declare const config: SnapshotConfig;

expectTypeOf(openHost()).resolves.toEqualTypeOf<Host>();
expectTypeOf(host).toExtend<AsyncDisposable>();

expectTypeOf(createSnapshot(host, { domain: 'guest1' }, { signal })).resolves.toEqualTypeOf<CreateResult>();
expectTypeOf<CreateResult['plan']>().toEqualTypeOf<SnapshotPlan>();
expectTypeOf<CreateResult['downtimeSeconds']>().toEqualTypeOf<number>();
expectTypeOf(revertSnapshot(host, { domain: 'guest1', config })).resolves.toEqualTypeOf<RevertResult>();
expectTypeOf(readConfigFile('/x')).resolves.toEqualTypeOf<SnapshotConfig>();

// Results are plain data: no methods, nothing to close.
type Methods<T> = { [K in keyof T]: T[K] extends (...args: never[]) => unknown ? K : never }[keyof T];
expectTypeOf<Methods<CreateResult>>().toEqualTypeOf<never>();
expectTypeOf<Methods<RevertResult>>().toEqualTypeOf<never>();
expectTypeOf<Methods<Inspection>>().toEqualTypeOf<never>();

// @ts-expect-error a revert needs the cfgfile
revertSnapshot(host, { domain: 'guest1' });
// @ts-expect-error a plain number is no domid until it was checked
host.hypervisor.pause(7);
expectTypeOf(host.hypervisor.pause(toDomid(7))).resolves.toEqualTypeOf<void>();

const work = observe((reporter) => createSnapshot(host, { domain: 'guest1' }, { reporter, signal }));
expectTypeOf(work).toEqualTypeOf<ObservedWork<CreateResult>>();
expectTypeOf(work).toExtend<AsyncIterable<ProgressEvent>>();
declare const event: ProgressEvent;
if (event.type === 'progress') expectTypeOf(event.done).toEqualTypeOf<number>();
if (event.type === 'phase') expectTypeOf(event.event).toEqualTypeOf<'start' | 'end' | 'failed'>();

// A toolstack of one's own: three methods, and the compiler says which are missing.
class Whole extends LibxlToolstack {
  domainConfig = (): Promise<LibxlConfig> => Promise.resolve({});
  destroy = (): Promise<void> => Promise.resolve();
  restore = () => Promise.resolve(toDomid(8));
}
expectTypeOf<Whole>().toExtend<Toolstack>();
expectTypeOf(openHost({ toolstack: (...parts) => new Whole(...parts) })).resolves.toEqualTypeOf<Host>();
// @ts-expect-error restore is missing
class Partial extends LibxlToolstack {
  domainConfig = (): Promise<LibxlConfig> => Promise.resolve({});
  destroy = (): Promise<void> => Promise.resolve();
}
void Partial;

expectTypeOf(inspectMemoryFile('/x', { readPages: true })).resolves.toEqualTypeOf<Inspection>();
expectTypeOf(compareMemoryFiles).parameter(0).toBeString();
expectTypeOf(verifyMemoryFile('/x', { signal })).resolves.toHaveProperty('records');

// One tree of errors, over all subpaths.
expectTypeOf<ConfigError>().toExtend<XlsnapError>();
expectTypeOf<XlsnapError['code']>().toEqualTypeOf<string>();
declare const error: unknown;
if (error instanceof XlsnapError) expectTypeOf(error.undoFailures).toEqualTypeOf<readonly string[]>();
void ConfigError;

expectTypeOf(FileSource.open('/x')).resolves.toExtend<AsyncDisposable>();
declare const source: FileSource;
expectTypeOf(readStream(source)).toEqualTypeOf<AsyncGenerator<LocatedItem>>();
expectTypeOf(QmpClient.connect('/x')).resolves.toEqualTypeOf<QmpClient>();
expectTypeOf(XenstoreClient.connect()).resolves.toEqualTypeOf<XenstoreClient>();
expectTypeOf(XenControl.open()).resolves.toEqualTypeOf<XenControl>();
expectTypeOf<FakeHost>().toExtend<Host>();
expectTypeOf(new FakeHost({ directory: '/x' }).calls).toEqualTypeOf<string[]>();
