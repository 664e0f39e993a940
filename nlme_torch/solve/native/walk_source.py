"""C++ of the adaptive walk: the same control as ``explicit.attempt``, eight subjects in step, each with its own time and size."""

SOURCE = r"""
static const double SAFETY = 0.9, SHRINK = 0.2, GROW = 10.0;
enum { OK, INVALID_START, NONFINITE, STEP_UNDERFLOW, MAX_STEPS };

static inline V norm(const V *x, const V *scale) {
    V total = vec(0);
    for (int i = 0; i < STATES; i++) { V e = x[i] / scale[i]; total += e * e; }
    return v_sqrt(total / (double)STATES);
}
static V first_step(const Problem &problem, V time, const V *y, const V *k, V interval, const V *p, const V *rate) {
    V scale[STATES], ahead[STATES], slope[STATES], bend[STATES];
    interval = choose(interval > 0, interval, vec(1));
    for (int i = 0; i < STATES; i++) scale[i] = problem.atol + problem.rtol * v_abs(y[i]);
    V size = norm(y, scale), speed = norm(k, scale);
    V trial = choose((size < 1e-5) | (speed < 1e-5), 1e-6 * interval, 0.01 * size / speed);
    trial = v_min(trial, interval);
    for (int i = 0; i < STATES; i++) ahead[i] = y[i] + trial * k[i];
    field(time + trial, ahead, p, problem.shared, slope);
    for (int i = 0; i < STATES; i++) bend[i] = slope[i] + (rate ? rate[i] : vec(0)) - k[i];
    V steepest = v_max(speed, norm(bend, scale) / trial);
    V step = choose(steepest <= 1e-15, v_max(1e-6 * interval, 1e-3 * trial), v_exp(v_log(0.01 / steepest) / ORDER));
    step = v_min(v_min(100.0 * trial, step), interval);
    return choose(finite(step) & (step > 0), step, 1e-3 * trial);
}

static void walk_group(const Problem &problem, int64_t group, const Lanes &lanes, Tape *tape) {
    const int64_t N = lanes.columns, final = problem.stops - 1;
    V y[STATES], p[OWN + 1], k[STAGES + 1][STATES], after[STATES], rates[STATES];
    load_all(lanes, problem.start, STATES, y);
    load_all(lanes, problem.own, OWN, p);
    V time = lanes.load(problem.times), last, stop = vec(1), previous = vec(1), tries = vec(0), status = vec(0);
    V accepted = vec(0), rejected = vec(0);
    for (int l = 0; l < LANES; l++) last[l] = (double)problem.last[lanes.column(l)];
    const V *rate = nullptr;
    if (problem.rates) { load_rates(problem, lanes, stop, rates); rate = rates; }
    field(time, y, p, problem.shared, k[0]);
    if (rate) for (int i = 0; i < STATES; i++) k[0][i] += rate[i];

    M good = integers(-1);
    for (int i = 0; i < STATES; i++) good &= finite(y[i]) & finite(k[0][i]);
    for (int64_t s = 0; s <= final; s++) {
        good &= finite(lanes.load(problem.times + s * N));
        for (int i = 0; i < STATES; i++) {
            if (problem.amounts) good &= finite(lanes.load(problem.amounts + (s * STATES + i) * N));
            if (problem.rates) good &= finite(lanes.load(problem.rates + (s * STATES + i) * N));
        }
    }
    status = choose(good, status, vec(INVALID_START));
    last = choose(good, last, vec(0));
    V target = final > 0 ? lanes.load(problem.times + N) : time;
    V step = first_step(problem, time, y, k[0], target - time, p, rate);
    int64_t room = 0;

    while (true) {
        M active = (stop <= last) & (status == 0);
        if (!any(active)) break;
        V remaining = target - time;
        V pieces = v_max(v_ceil(remaining / step), vec(1));
        V size = choose(active, remaining / pieces, vec(0));
        V end = choose(pieces == 1, target, time + size);
        stages(problem, time, size, y, p, rate, k, after);
        field(end, after, p, problem.shared, k[STAGES]);
        if (rate) for (int i = 0; i < STATES; i++) k[STAGES][i] += rate[i];
        V total = vec(0);
        for (int i = 0; i < STATES; i++) {
            V e = E[0] * k[0][i];
            for (int j = 1; j <= STAGES; j++) e += E[j] * k[j][i];
            e = size * e / (v_max(v_abs(y[i]), v_abs(after[i])) * problem.rtol + problem.atol);
            total += e * e;
        }
        V error = v_sqrt(total / (double)STATES);
        M sound = finite(error), accept = active & (error <= 1.0), arrived = accept & (pieces == 1);

        if (tape && any(accept)) {
            int64_t most = 0;
            for (int l = 0; l < LANES; l++) if (accept[l] && accepted[l] >= most) most = (int64_t)accepted[l] + 1;
            reserve(tape, group, most, room);
            if (most > tape->steps[group]) tape->steps[group] = most;
            for (int l = 0; l < LANES; l++) {
                if (!accept[l]) continue;
                double *row = tape->data[group] + (int64_t)accepted[l] * tape->rows * LANES + l;
                row[TIME * LANES] = time[l]; row[STEP * LANES] = size[l];
                row[STOP * LANES] = stop[l]; row[ARRIVED * LANES] = arrived[l] ? 1 : 0;
                for (int i = 0; i < STATES; i++) row[(STATE + i) * LANES] = y[i][l];
                for (int j = 0; j < STAGES; j++)
                    for (int i = 0; i < STATES; i++) row[(STATE + STATES * (j + 1) + i) * LANES] = k[j][i][l];
            }
        }

        V bounded = v_max(choose(sound, error, vec(1e10)), vec(1e-10));
        V logarithm = v_log(bounded);
        V grow = SAFETY * v_exp((-0.7 / ORDER) * logarithm + (0.4 / ORDER) * v_log(previous));
        V shrink = v_min(SAFETY * v_exp((-1.0 / ORDER) * logarithm), vec(1));
        V factor = v_min(v_max(choose(accept, grow, shrink), vec(SHRINK)), vec(GROW));
        V proposal = size * choose(sound, factor, vec(0.1));
        proposal = choose(accept, v_max(proposal, choose(arrived, step, vec(0))), proposal);
        M refuse = active & ~accept;
        tries = choose(arrived, vec(0), tries + choose(active, vec(1), vec(0)));
        M stuck = refuse & ((time + proposal <= time) | (proposal < 1e-30 * remaining));
        status = choose(stuck, choose(sound, vec(STEP_UNDERFLOW), vec(NONFINITE)), status);
        status = choose((status == 0) & (tries >= (double)problem.max_steps), vec(MAX_STEPS), status);
        time = choose(accept, end, time);
        step = choose(active, proposal, step);
        for (int i = 0; i < STATES; i++) {
            y[i] = choose(accept, after[i], y[i]);
            k[0][i] = choose(accept, k[STAGES][i], k[0][i]);
        }
        previous = choose(accept, v_max(bounded, vec(1e-4)), previous);
        accepted += choose(accept, vec(1), vec(0));
        rejected += choose(refuse, vec(1), vec(0));
        if (!any(arrived)) continue;
        arrive(problem, lanes, stop, arrived, y);
        bool events = problem.amounts || problem.resets || problem.rates;
        if (events) leave(problem, lanes, stop, arrived, y);
        stop += choose(arrived, vec(1), vec(0));
        for (int l = 0; l < LANES; l++) {
            int64_t s = (int64_t)stop[l] < final ? (int64_t)stop[l] : final;
            target[l] = problem.times[s * N + lanes.column(l)];
        }
        if (events) {
            if (rate) load_rates(problem, lanes, stop, rates);
            V slope[STATES];
            field(time, y, p, problem.shared, slope);
            for (int i = 0; i < STATES; i++) k[0][i] = choose(arrived, slope[i] + (rate ? rate[i] : vec(0)), k[0][i]);
        }
    }
    lanes.store_integers(problem.status, status);
    lanes.store_integers(problem.stop, stop);
    lanes.store_integers(problem.accepted, accepted);
    lanes.store_integers(problem.rejected, rejected);
}

extern "C" Tape *walk(const Problem *problem) {
    Tape *tape = problem->taped ? new_tape((problem->columns + LANES - 1) / LANES, STATE + STATES * (1 + STAGES)) : nullptr;
    for_each_group(problem->columns, problem->threads, [&](int64_t group, const Lanes &lanes) {
        walk_group(*problem, group, lanes, tape);
    });
    return tape;
}
"""
