"""C++ of the discrete adjoint: accepted steps backwards, their sizes held constant relative to the interval they lie in."""

SOURCE = r"""
struct Gradients {
    const double *arrivals;
    double *start, *restart, *own, *shared, *amounts, *rates, *times;
};

static void adjoint_group(const Problem &problem, const Tape &tape, const Gradients &gradients, int64_t group, const Lanes &lanes) {
    const int64_t N = lanes.columns;
    V p[OWN + 1], bar[STATES], own[OWN + 1], shared[SHARED + 1], restart[STATES], slopes[STAGES][STATES];
    load_all(lanes, problem.own, OWN, p);
    for (V &x : own) x = vec(0);
    for (V &x : shared) x = vec(0);
    for (int i = 0; i < STATES; i++) bar[i] = restart[i] = vec(0);
    for (int64_t n = tape.steps[group] - 1; n >= 0; n--) {
        const double *data = tape.data[group] + n * tape.rows * LANES;
        auto row = [&](int r) { V x; std::memcpy(&x, data + r * LANES, sizeof(x)); return x; };
        V time = row(TIME), step = row(STEP), stop = row(STOP), arrived = row(ARRIVED);
        for (int l = 0; l < lanes.count; l++) {
            if (arrived[l] == 0) continue;
            int64_t s = (int64_t)stop[l], c = lanes.first + l;
            bool reset = problem.resets && problem.resets[s * N + c];
            for (int i = 0; i < STATES; i++) {
                if (gradients.amounts) gradients.amounts[(s * STATES + i) * N + c] = bar[i][l];
                if (reset) { restart[i][l] += bar[i][l]; bar[i][l] = 0; }
                bar[i][l] += gradients.arrivals[(s * STATES + i) * N + c];
            }
        }
        M live = integers(0);
        for (int i = 0; i < STATES; i++) live |= bar[i] != 0;
        live &= step > 0;
        if (!any(live)) continue;
        V y[STATES], k[STAGES][STATES], point[STATES], slope_bar[STATES], time_bar = vec(0), step_bar = vec(0), moved[STATES];
        for (int i = 0; i < STATES; i++) {
            y[i] = row(STATE + i);
            moved[i] = vec(0);
            for (int j = 0; j < STAGES; j++) {
                k[j][i] = row(STATE + STATES * (j + 1) + i);
                slopes[j][i] = choose(live, step * A[STAGES - 1][j] * bar[i], vec(0));
                if (gradients.times) step_bar += A[STAGES - 1][j] * k[j][i] * bar[i];
            }
        }
        for (int s = STAGES - 1; s >= 0; s--) {
            V direction[STATES], point_bar[STATES], node_bar = vec(0);
            for (int i = 0; i < STATES; i++) {
                V total = vec(0);
                for (int j = 0; j < s; j++) total += A[s - 1][j] * k[j][i];
                direction[i] = total;
                point[i] = y[i] + step * total;
                slope_bar[i] = slopes[s][i];
            }
            double node = s ? C[s - 1] : 0.0;
            pull(time + step * node, point, p, problem.shared, slope_bar, live, point_bar, own, shared, &node_bar);
            time_bar += node_bar;
            step_bar += node * node_bar;
            for (int i = 0; i < STATES; i++) {
                moved[i] += point_bar[i];
                for (int j = 0; j < s; j++) slopes[j][i] += step * A[s - 1][j] * point_bar[i];
                if (gradients.times) step_bar += point_bar[i] * direction[i];
            }
        }
        if (gradients.rates)
            for (int l = 0; l < lanes.count; l++)
                if (live[l])
                    for (int i = 0; i < STATES; i++)
                        for (int j = 0; j < STAGES; j++)
                            gradients.rates[(((int64_t)stop[l] - 1) * STATES + i) * N + lanes.first + l] += slopes[j][i][l];
        if (gradients.times)
            for (int l = 0; l < lanes.count; l++) {
                if (!live[l]) continue;
                int64_t place = ((int64_t)stop[l] - 1) * N + lanes.first + l;
                double begin = problem.times[place], length = problem.times[place + N] - begin;
                double at = (time[l] - begin) / length, size = step[l] / length;
                gradients.times[place] += (1 - at) * time_bar[l] - size * step_bar[l];
                gradients.times[place + N] += at * time_bar[l] + size * step_bar[l];
            }
        for (int i = 0; i < STATES; i++) bar[i] = choose(live, bar[i] + moved[i], bar[i]);
    }
    for (int i = 0; i < STATES; i++) {
        lanes.store(gradients.start + i * N, bar[i]);
        if (gradients.restart) lanes.store(gradients.restart + i * N, restart[i]);
    }
    for (int i = 0; i < OWN; i++) lanes.store(gradients.own + i * N, own[i]);
    for (int i = 0; i < SHARED; i++) {
        double total = 0;
        for (int l = 0; l < lanes.count; l++) total += shared[i][l];
        gradients.shared[i * tape.groups + group] = total;
    }
}

extern "C" void adjoint(const Problem *problem, const Tape *tape, const Gradients *gradients) {
    for_each_group(problem->columns, problem->threads, [&](int64_t group, const Lanes &lanes) {
        adjoint_group(*problem, *tape, *gradients, group, lanes);
    });
}
"""
