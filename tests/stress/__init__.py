"""The stress test: optimizers of random trees, stepped by several threads while things go wrong.

    python -m tests.stress --minutes 10
    python -m tests.stress --seed 1017 --minutes 0    repeat what found a problem under this seed

1. A generation is 16 optimizers, each over a random tree: NumPy, torch, JAX and Python floats, of
   every dtype and layout, with random options of Adam and AdamW.
2. Each has two shadows that nothing happens to but steps: a twin on the reference engine, for the
   bits wherever they are promised; and for every leaf the oracle of the tests, in long double.
3. Threads pass the optimizers on: one takes an optimizer, makes some steps, does one thing to it
   that must not show in its numbers (an attack), makes some more, and leaves it to the next.
4. An attack saves, loads, damages files, interrupts a step at a random line, forks, copies, passes
   bad gradients, or sets parameters and learning rate; `attacks` is the list, and how to add one.
5. After every burst of steps and every attack all parameters, moments and counts are compared.
6. Between two generations nothing is alive, and the memory of the process must not have grown.
7. All that happens to an optimizer is drawn from its seed, so a problem can be repeated.
8. The first problem of an optimizer is its last; the others go on. Any problem fails the run.
9. If the process itself dies, the last line printed has the seed, and Python the stacks.
10. `recipes` is what is stepped, `subject` one optimizer, `run` the whole.
"""
