/** One look at storages, for a whole plan: what it has found out holds for all disks, so that it is asked for once. */
export class Look {
  readonly #answers = new Map<object, Promise<unknown>>();

  /**
   * Asks, unless that has been asked in this look.
   * @param subject what is asked about: one question for each
   */
  async once<Answer>(subject: object, ask: () => Promise<Answer>): Promise<Answer> {
    const known = this.#answers.get(subject) ?? ask();
    this.#answers.set(subject, known);
    return (await known) as Answer;
  }
}
