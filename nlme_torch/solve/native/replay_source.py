"""C++ of a walk along the steps that another walk accepted, and of a tape's steps as plain arrays."""

SOURCE = r"""
static void replay_group(const Problem &problem, const Tape &steps, int64_t group, const Lanes &lanes, Tape *tape) {
    V y[STATES], p[OWN + 1], k[STAGES + 1][STATES], after[STATES], rates[STATES];
    load_all(lanes, problem.start, STATES, y);
    load_all(lanes, problem.own, OWN, p);
    const V *rate = problem.rates ? rates : nullptr;
    int64_t room = 0;
    reserve(tape, group, steps.steps[group], room);
    tape->steps[group] = steps.steps[group];
    for (int64_t n = 0; n < steps.steps[group]; n++) {
        const double *from = steps.data[group] + n * steps.rows * LANES;
        double *to = tape->data[group] + n * tape->rows * LANES;
        std::memcpy(to, from, STATE * LANES * sizeof(double));
        auto row = [&](int r) { V x; std::memcpy(&x, from + r * LANES, sizeof(x)); return x; };
        V time = row(TIME), step = row(STEP), stop = row(STOP);
        M moves = step > 0;
        if (rate) load_rates(problem, lanes, choose(moves, stop, vec(1)), rates);
        field(time, y, p, problem.shared, k[0]);
        if (rate) for (int i = 0; i < STATES; i++) k[0][i] += rate[i];
        stages(problem, time, step, y, p, rate, k, after);
        for (int i = 0; i < STATES; i++) {
            std::memcpy(to + (STATE + i) * LANES, &y[i], sizeof(V));
            for (int j = 0; j < STAGES; j++) std::memcpy(to + (STATE + STATES * (j + 1) + i) * LANES, &k[j][i], sizeof(V));
            y[i] = choose(moves, after[i], y[i]);
        }
        M arrived = row(ARRIVED) != 0;
        if (!any(arrived)) continue;
        arrive(problem, lanes, stop, arrived, y);
        leave(problem, lanes, stop, arrived, y);
    }
}

extern "C" Tape *replay(const Problem *problem, const Tape *steps) {
    Tape *tape = new_tape(steps->groups, STATE + STATES * (1 + STAGES));
    for_each_group(problem->columns, problem->threads, [&](int64_t group, const Lanes &lanes) {
        replay_group(*problem, *steps, group, lanes, tape);
    });
    return tape;
}
"""
