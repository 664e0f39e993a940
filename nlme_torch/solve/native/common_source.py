"""C++ shared by all kernels: the problem as Python hands it over, the tape of accepted steps, work over groups of lanes."""

SOURCE = r"""
#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

struct Problem {
    int64_t columns, stops, threads, max_steps, taped;
    double rtol, atol;
    const double *start, *restart, *times, *own, *shared, *amounts, *rates;
    const int64_t *last;
    const uint8_t *resets;
    double *arrivals;
    int64_t *status, *stop, *accepted, *rejected;
};

// Accepted steps of each group: rows of LANES numbers: time, step, stop, arrived, state, slopes of all stages.
struct Tape {
    int64_t groups, rows;
    int64_t *steps;
    double **data;
};
static constexpr int TIME = 0, STEP = 1, STOP = 2, ARRIVED = 3, STATE = 4;

static Tape *new_tape(int64_t groups, int64_t rows) {
    Tape *tape = (Tape *)std::malloc(sizeof(Tape));
    *tape = {groups, rows, (int64_t *)std::calloc(groups, sizeof(int64_t)), (double **)std::calloc(groups, sizeof(double *))};
    return tape;
}
extern "C" void release(Tape *tape) {
    if (!tape) return;
    for (int64_t g = 0; g < tape->groups; g++) std::free(tape->data[g]);
    std::free(tape->data);
    std::free(tape->steps);
    std::free(tape);
}
// Room for `steps` steps; what is new is zero, hence steps of size zero.
static void reserve(Tape *tape, int64_t group, int64_t steps, int64_t &room) {
    if (steps <= room) return;
    int64_t larger = steps < 32 ? 64 : 2 * steps;
    int64_t size = tape->rows * LANES;
    tape->data[group] = (double *)std::realloc(tape->data[group], larger * size * sizeof(double));
    std::memset(tape->data[group] + room * size, 0, (larger - room) * size * sizeof(double));
    room = larger;
}

struct Lanes {
    int64_t first, count, columns;
    int64_t column(int l) const { return first + (l < count ? l : count - 1); }
    V load(const double *row) const {
        V r;
        if (count == LANES) std::memcpy(&r, row + first, sizeof(r));
        else for (int l = 0; l < LANES; l++) r[l] = row[column(l)];
        return r;
    }
    void store(double *row, V x) const {
        if (count == LANES) std::memcpy(row + first, &x, sizeof(x));
        else for (int l = 0; l < count; l++) row[first + l] = x[l];
    }
    void store_integers(int64_t *row, V x) const { for (int l = 0; l < count; l++) row[first + l] = (int64_t)x[l]; }
};

template <class Work> static void for_each_group(int64_t columns, int64_t threads, Work work) {
    int64_t groups = (columns + LANES - 1) / LANES;
    std::atomic<int64_t> next{0};
    auto loop = [&] {
        for (int64_t g; (g = next++) < groups;) {
            int64_t first = g * LANES;
            work(g, Lanes{first, columns - first < LANES ? columns - first : LANES, columns});
        }
    };
    int64_t extra = threads < groups / 4 ? threads - 1 : groups / 4 - 1;
    std::vector<std::thread> helpers;
    for (int64_t i = 0; i < extra; i++) helpers.emplace_back(loop);
    loop();
    for (auto &helper : helpers) helper.join();
}

static inline void load_all(const Lanes &lanes, const double *rows, int count, V *to) {
    for (int i = 0; i < count; i++) to[i] = lanes.load(rows + i * lanes.columns);
}
static inline void load_rates(const Problem &problem, const Lanes &lanes, V stop, V *rate) {
    for (int i = 0; i < STATES; i++)
        for (int l = 0; l < LANES; l++) {
            int64_t interval = (int64_t)stop[l] - 1;
            if (interval > problem.stops - 1) interval = problem.stops - 1;
            rate[i][l] = problem.rates[(interval * STATES + i) * lanes.columns + lanes.column(l)];
        }
}
// The state on leaving the stop at which a lane has arrived.
static inline void leave(const Problem &problem, const Lanes &lanes, V stop, M arrived, V *y) {
    for (int l = 0; l < LANES; l++) {
        if (!arrived[l]) continue;
        int64_t s = (int64_t)stop[l], c = lanes.column(l);
        for (int i = 0; i < STATES; i++) {
            if (problem.resets && problem.resets[s * lanes.columns + c]) y[i][l] = problem.restart[i * lanes.columns + c];
            if (problem.amounts) y[i][l] += problem.amounts[(s * STATES + i) * lanes.columns + c];
        }
    }
}
static inline void arrive(const Problem &problem, const Lanes &lanes, V stop, M arrived, const V *y) {
    for (int l = 0; l < lanes.count; l++)
        if (arrived[l])
            for (int i = 0; i < STATES; i++)
                problem.arrivals[((int64_t)stop[l] * STATES + i) * lanes.columns + lanes.first + l] = y[i][l];
}

// Slopes of all stages but the last, given the first; state after the step.
static inline void stages(const Problem &problem, V time, V step, const V *y, const V *p, const V *rate, V (*k)[STATES], V *after) {
    for (int s = 1; s <= STAGES; s++) {
        V *inner = after;
        V point[STATES];
        if (s < STAGES) inner = point;
        for (int i = 0; i < STATES; i++) {
            V total = A[s - 1][0] * k[0][i];
            for (int j = 1; j < s; j++) total += A[s - 1][j] * k[j][i];
            inner[i] = y[i] + step * total;
        }
        if (s < STAGES) {
            field(time + step * C[s - 1], point, p, problem.shared, k[s]);
            if (rate) for (int i = 0; i < STATES; i++) k[s][i] += rate[i];
        }
    }
}
"""
