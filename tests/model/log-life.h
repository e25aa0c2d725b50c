/*
 * Headers, how the log is opened and closed, and cuts of the file's tail.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_LOG_LIFE_H
#define MODEL_LOG_LIFE_H

#include "log-early.h"

/* -- Headers -- */

/*
 * The next copy gets written, the @i-th of an update; the one that does not
 * count goes first, and is stable before the other.
 */
static void header_put(int log, int i)
{
    bool current = defect == CURRENT_FIRST && i == 0;   /* [header-order] */

    m.header_to = current ? m.header : !m.header;
    header_write(&m.disk, m.header_to, m.sequence + 1, log);
    if (defect != HEADERS_TOGETHER || i > 0) {          /* [header-order] */
        file_flush_begin();
    }
}

static void header_end(void)
{
    file_flush_end();
    m.header = m.header_to;
    m.sequence++;
    m.header_to = 0;
}

/* -- Opening the log -- */

static const Header *header_now(void)
{
    return &m.disk.header[m.header].stable;
}

static bool may_open(void)
{
    return !m.open && !m.commit_lock && m.ops && m.ops > 1;
}

static void open_begin(void)
{
    int log = header_now()->log;

    m.commit_lock = true;
    m.replaying = log != 0;
    if (defect == LOG_OVERWRITTEN && log) {     /* [log-kept] */
        return;
    }
    /* [replay-named] */
    header_put(defect == REPLAY_FORGETS_LOG ? 0 : log, 0);
}

/* The replay's pages are put in place, and the file has its length. */
static void replay_put(void)
{
    if (defect != LOG_OVERWRITTEN) {
        header_end();
    }
    for (int b = 0; b < blocks; b++) {
        value_write(&m.disk.page[b], m.pages[b].now);
    }
    value_write(&m.disk.length, m.size);
    if (defect != REPLAY_UNFLUSHED && defect != LOG_OVERWRITTEN) {
        file_flush_begin();     /* [replay-stable] */
    }
}

/* What lies behind the last object is cut, or not known to be zero. */
static void replay_cut(void)
{
    if (defect == TAIL_FOR_ZERO) {      /* [tail-old] */
        for (int p = map_end(); p < m.size; p++) {
            m.places[p].zero = true;
        }
        return;
    }
    cut_begin();
    file_cut();
}

/* The new log gets an entry before any header names it. */
static void ring_begin(void)
{
    Entry entry;

    m.replaying = false;
    m.ring = (Ring) { .log = m.ring.log + 1 };
    ring_entry(&entry);
    ring_write(&entry);
    if (defect != NAMED_EMPTY) {        /* [log-named] */
        file_flush_begin();
    }
}

static void open_end(void)
{
    header_end();
    m.open = true;
    m.commit_lock = false;
}

/* -- Closing it -- */

static bool may_close(void)
{
    return is_kind(CLOSE) && m.closes && m.open && !m.commit_lock &&
           !m.broken && all_are_idle();
}

static void close_begin(void)
{
    m.closes--;
    m.frozen = true;
    if (defect == TRIM_BEFORE_CLOSE) {          /* [cut-announced] */
        cut_begin();
        file_cut();
    }
    commit_begin(0);
}

static void close_apply(void)
{
    if (defect != CLOSED_UNAPPLIED) {           /* [close-applied] */
        ring_apply();
    }
    if (defect != CLOSED_UNFLUSHED) {           /* [close-applied] */
        file_flush_begin();
    }
}

static void close_end(void)
{
    header_end();
    m.open = m.frozen = m.commit_lock = false;
    cut_begin();
    file_cut();
    for (int b = 0; b < blocks; b++) {
        m.pages[b].in_log = m.pages[b].put = m.pages[b].logged = 0;
    }
}

/* -- The tail is cut. -- */

static bool may_cut(void)
{
    return is_kind(CUT) && m.cuts && m.open && !m.commit_lock && !m.frozen &&
           !m.broken && map_end() < m.size;
}

static void tail_begin(void)
{
    m.cuts--;
    m.commit_lock = m.grow_lock = true;
    if (m.early && defect != EARLY_UNSETTLED) { /* [early-settled] */
        file_flush_begin();
    }
}

static void tail_announce(void)
{
    if (m.flushing) {
        file_flush_end();
        commit_stable();
    }
    cut_begin();
    if (defect != CUT_UNANNOUNCED) {            /* [cut-announced] */
        checkpoint_begin();
    }
}

/* After the checkpoint: now that no entry tells of it any more */
static void tail_cut(void)
{
    if (defect != CUT_UNANNOUNCED) {
        checkpoint_end();
    }
    file_cut();
    if (defect != CUT_UNFLUSHED) {              /* [cut-stable] */
        file_flush_begin();
    }
}

static void tail_end(void)
{
    file_flush_end();
    m.commit_lock = m.grow_lock = false;
}

#endif
