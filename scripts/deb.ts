/**
 * Builds the Debian package:
 *
 *   npm run deb [-- DIRECTORY]     writes DIRECTORY/xlsnap_VERSION_amd64.deb (default: the current directory)
 */
import { buildDeb } from './deb/build.ts';

console.log(buildDeb(process.argv[2] ?? process.cwd()));
