// Starts the worker. A thread does not inherit tsx, which reads TypeScript, from the process.
import { register } from 'tsx/esm/api';

register();
await import('./fuzz-worker.ts');
