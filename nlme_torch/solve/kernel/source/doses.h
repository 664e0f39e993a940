// Stops of one column whose doses are moved or changed by its own lag, bioavailability, rate or duration. The rules are
// those of nlme_torch/model/dosing/dosing_events.py: a lagged dose and the end of an infusion are stops of their own,
// before the records of the same time; nothing acts after the next reset or the last record.
#pragma once
#include <algorithm>
#include "columns.h"

enum DoseKinds { BY_BOLUS, BY_RATE, BY_DURATION, BY_MODELLED_RATE, BY_MODELLED_DURATION };
enum Modifiers { LAG, FRACTION, RATE, DURATION, MODIFIERS };

// What happens at one stop: an amount enters a state, or its rate changes; `record` is -1 where no row stands.
struct Stop { double time, amount, change; long state, record; };

struct Stops {
  std::vector<Stop> extras, records, line;
  // Of column l among W, whose modifiers of state i are v[i * MODIFIERS + ...]; false where a dose cannot be given.
  bool build(const ColumnData &d, long subject, const V *v, int l) {
    extras.clear(); records.clear(); line.clear();
    for (long r = 0; r < d.records; ++r)
      records.push_back({d.record_times[r * d.subjects + subject], 0, 0, 0, r});
    for (long k = 0; k < d.doses; ++k) {
      const long place = k * d.subjects + subject, row = d.dose_record[place];
      if (row < 0) continue;
      const long state = d.dose_state[place], kind = d.dose_kind[place];
      const bool lagged = d.dose_lagged[place];
      const double time = d.dose_time[place], limit = d.dose_limit[place];
      const V *own = v + state * MODIFIERS;
      const double lag = own[LAG][l], fraction = own[FRACTION][l], amount = d.dose_amount[place] * fraction;
      if (!(lag >= 0 && lag < INF && fraction >= 0 && fraction < INF)) return false;
      double rate = d.dose_rate[place], duration = d.dose_duration[place];
      if (kind == BY_RATE) duration = amount / rate;
      if (kind == BY_DURATION) rate = amount / duration;
      if (kind == BY_MODELLED_RATE) rate = own[RATE][l], duration = amount / rate;
      if (kind == BY_MODELLED_DURATION) duration = own[DURATION][l], rate = amount / duration;
      if (kind != BY_BOLUS && !(rate >= 0 && duration >= 0 && duration < INF)) return false;
      if (kind >= BY_MODELLED_RATE && !(own[kind == BY_MODELLED_RATE ? RATE : DURATION][l] > 0)) return false;
      const double when = time + lag;
      if (kind == BY_BOLUS) {
        if (when == time) records[row].amount = amount, records[row].state = state;
        else extras.push_back({std::min(when, limit), when > limit ? 0 : amount, 0, state, -1});
      } else {
        if (lagged) extras.push_back({std::min(when, limit), 0, rate, state, -1});
        else records[row].change = rate, records[row].state = state;
        extras.push_back({std::min(when + duration, limit), 0, -rate, state, -1});
      }
    }
    std::stable_sort(extras.begin(), extras.end(), [](const Stop &a, const Stop &b) { return a.time < b.time; });
    std::merge(extras.begin(), extras.end(), records.begin(), records.end(), std::back_inserter(line),
               [](const Stop &a, const Stop &b) { return a.time < b.time; });
    return true;
  }
  bool resets(const ColumnData &d, long subject, long s) const {
    const long record = line[s].record;
    return s > 0 && record >= 0 && d.record_resets && d.record_resets[record * d.subjects + subject];
  }
};

#if EQUATION == 2
// The stops of many columns, those of equal time merged, as the walk takes them.
struct MovedStops {
  long columns, stops;
  std::vector<double> times, amounts, rates, added;   // (stop, column), (stop, state, column) twice, (record, state, column)
  std::vector<unsigned char> resets, restarted;       // (stop, column), (record, column)
  std::vector<long> last, stop_of;                    // (column), (record, column)
  MovedStops(const ColumnData &d, long count)
      : columns(count), stops(d.records + 2 * d.doses), times(stops * count), amounts(stops * STATES * count),
        rates(stops * STATES * count), added(d.records * STATES * count), resets(stops * count),
        restarted(d.records * count), last(count), stop_of(d.records * count) {}
  void fill(const ColumnData &d, const Stops &found, long subject, long n) {
    double sum[STATES] = {}, rate[STATES] = {};
    long stop = -1;
    bool again = false;
    for (long s = 0; s < (long)found.line.size(); ++s) {
      const Stop &e = found.line[s];
      if (stop < 0 || e.time > times[stop * columns + n]) {
        ++stop;
        times[stop * columns + n] = e.time;
        std::fill(sum, sum + STATES, 0.0);
        again = false;
      }
      if (found.resets(d, subject, s) && stop > 0) { again = true; std::fill(sum, sum + STATES, 0.0); }
      sum[e.state] += e.amount;
      rate[e.state] += e.change;
      for (int i = 0; i < STATES; ++i) {
        amounts[(stop * STATES + i) * columns + n] = sum[i];
        rates[(stop * STATES + i) * columns + n] = rate[i];
      }
      resets[stop * columns + n] = again;
      if (e.record < 0) continue;
      stop_of[e.record * columns + n] = stop;
      restarted[e.record * columns + n] = again;
      for (int i = 0; i < STATES; ++i) added[(e.record * STATES + i) * columns + n] = sum[i];
    }
    last[n] = stop;
    for (long s = stop + 1; s < stops; ++s) times[s * columns + n] = times[stop * columns + n];
  }
  // The same problem with these stops, every column's its own.
  Problem problem(Problem q) const {
    q.stops = stops; q.times = times.data(); q.amounts = amounts.data(); q.rates = rates.data();
    q.resets = resets.data(); q.last = last.data(); q.rows = columns; q.offset = 0;
    return q;
  }
};
#endif
