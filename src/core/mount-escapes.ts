/** Undoes the kernel's escapes in /proc/mounts, mountinfo and swaps: a space is `\040` (mangle in fs/seq_file.c). */
export function unescapeMount(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}
