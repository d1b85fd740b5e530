import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts', 'test/property/**/*.test.ts'],
          setupFiles: ['test/support/leaves-no-trace.ts'],
          // The modules have no state of their own, and what the process has is looked after: one process runs many files.
          isolate: false,
          // Vitest leaves one core to itself, which does nothing while tests run.
          maxWorkers: availableParallelism(),
          // Milliseconds on a machine of one's own; a busy one may take its time.
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'integration',
          include: ['test/integration/**/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          name: 'lab',
          include: ['test/lab/**/*.test.ts'],
          setupFiles: ['test/support/time-left.ts'],
          // One lab at a time, one test after the other; software emulation is slow.
          fileParallelism: false,
          testTimeout: 1_800_000,
          hookTimeout: 900_000,
        },
      },
    ],
  },
});
