/** Runs tasks side by side, so many at once, until one fails. */
export class Lanes {
  readonly #width: number;
  readonly #running = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;

  constructor(width: number) {
    this.#width = width;
  }

  /**
   * Starts a task as soon as there is room.
   * @throws what an earlier task threw; then this one has not been started.
   */
  async start(task: () => Promise<void>): Promise<void> {
    while (this.#running.size >= this.#width && this.#failure === undefined) {
      await Promise.race(this.#running);
    }
    if (this.#failure !== undefined) throw this.#failure.error;
    const running = task()
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /**
   * Waits until all have ended.
   * @throws what the first that failed threw
   */
  async end(): Promise<void> {
    await Promise.all(this.#running);
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}
