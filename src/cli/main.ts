#!/usr/bin/env node
/** The program `xlsnap`. It loads the rest once it is known where that may be compiled already. */
import { useCompileCache } from './compile-cache.ts';

useCompileCache();
const { start } = await import('./start.ts');
await start();
