/** Manages domains with libxl itself, as xl does. A program in C or Go would call the same functions. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import koffi from 'koffi';
import { type LibxlConfig, parseLibxlConfig, printLibxlJson } from 'xlsnap';
import { FileSource, readXlHeader, xlConfigText } from 'xlsnap/savefmt';
import type { Domains } from './own-toolstack.ts';

/** More than sizeof(libxl_domain_config); C programs have the exact size from the header. */
const CONFIG_SIZE = 64 * 1024;
const STREAM_VERSION_AT = 4;
const STREAM_VERSION = 2;

/**
 * Loads libxl.
 * @param release of the libraries, such as `4.20`
 */
export function libxlDomains(release: string = runningRelease()): Domains {
  const xl = koffi.load(`libxenlight.so.${release}`);
  const toollog = koffi.load('libxentoollog.so.1');
  const fdopen = koffi.load('libc.so.6').func('void *fdopen(int fd, const char *mode)');
  const logger = toollog.func('void *xtl_createlogger_stdiostream(void *f, int level, unsigned int flags)');
  const json = koffi.disposable('LibxlJson', 'str');
  const alloc = xl.func('int libxl_ctx_alloc(_Out_ void **ctx, int version, unsigned int flags, void *log)');
  const init = xl.func('void libxl_domain_config_init(void *config)');
  const dispose = xl.func('void libxl_domain_config_dispose(void *config)');
  const retrieve = xl.func(
    'int libxl_retrieve_domain_configuration(void *ctx, uint32_t domid, void *config, void *how)',
  );
  const toJson = xl.func('libxl_domain_config_to_json', json, ['void *', 'void *']);
  const fromJson = xl.func('int libxl_domain_config_from_json(void *ctx, void *config, const char *text)');
  const destroy = xl.func('int libxl_domain_destroy(void *ctx, uint32_t domid, void *how)');
  const initParams = xl.func('void libxl_domain_restore_params_init(void *params)');
  const restore = xl.func(
    'int libxl_domain_create_restore(void *ctx, void *config, _Out_ uint32_t *domid, int fd, int back, void *params, void *how, void *console)',
  );

  const out: unknown[] = [null];
  check('libxl_ctx_alloc', alloc(out, 0, 0, logger(fdopen(2, 'w'), 5, 0)));
  const [ctx] = out;

  const withConfig = async <T>(work: (config: Uint8Array) => T): Promise<T> => {
    const config = new Uint8Array(CONFIG_SIZE);
    init(config);
    try {
      return work(config);
    } finally {
      dispose(config);
    }
  };

  return {
    describe: (domid) =>
      withConfig((config) => {
        check('libxl_retrieve_domain_configuration', retrieve(ctx, domid, config, null));
        return parseLibxlConfig(String(toJson(ctx, config)));
      }),
    destroy: async (domid) => check('libxl_domain_destroy', destroy(ctx, domid, null)),
    async restore(memoryPath, given) {
      const { stored, start } = await readHeader(memoryPath);
      const fd = openAt(memoryPath, start);
      try {
        return await withConfig((config) => {
          const params = new Uint8Array(1024);
          initParams(params);
          new DataView(params.buffer).setUint32(STREAM_VERSION_AT, STREAM_VERSION, true);
          check('libxl_domain_config_from_json', fromJson(ctx, config, printLibxlJson(given ?? stored)));
          const domid = [0];
          // The domain stays paused until someone unpauses it.
          check('libxl_domain_create_restore', restore(ctx, config, domid, fd, -1, params, null, null));
          return domid[0] ?? -1;
        });
      } finally {
        closeSync(fd);
      }
    },
  };
}

function check(what: string, result: unknown): void {
  if (result !== 0) throw new Error(`${what} failed: ${String(result)}`);
}

function runningRelease(): string {
  const part = (name: string): string => readFileSync(`/sys/hypervisor/version/${name}`, 'utf8').trim();
  return `${part('major')}.${part('minor')}`;
}

async function readHeader(path: string): Promise<{ stored: LibxlConfig; start: number }> {
  await using source = await FileSource.open(path);
  const stored = parseLibxlConfig(xlConfigText(await readXlHeader(source)));
  return { stored, start: source.offset };
}

/** Moves the descriptor to the stream: libxl reads from the descriptor's position on. */
function openAt(path: string, offset: number): number {
  const fd = openSync(path, 'r');
  for (let left = offset; left > 0; ) left -= readSync(fd, new Uint8Array(left), 0, left, null);
  return fd;
}
