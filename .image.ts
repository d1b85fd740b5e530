import { ensureImage } from './lab/image.ts';
import { findRelease } from './lab/releases.ts';
import { labPaths } from './lab/paths.ts';
import { Steps } from './lab/timings.ts';
const paths = labPaths();
await ensureImage(findRelease('4.20'), paths, new Steps(paths.timings, process.stderr as never));
