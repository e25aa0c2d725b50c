/*
 * Steps of the log in a trace: flushes, headers, entries, commits, checkpoints,
 * pages that go in place.  Each asks whether the model allows it now, and does
 * it there.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_TRACE_LOG_H
#define MODEL_TRACE_LOG_H

#include "trace-state.h"

/* -- Flushes of the file -- */

static void flush_begins(void)
{
    RULE(!m.flushing, "flush-stable", "two flushes at the same time");
    file_flush_begin();
    t.header_flushing = t.header_put;
    t.barrier_flushing = m.barrier;
    t.cut_flushing = t.cut;
    t.needs_flush = t.changed;
    t.file_flushed = false;
    t.ended_flushing = t.ended;
    for (int b = 0; b < blocks; b++) {
        t.replay_flushing[b] = t.replay_put[b];
    }
}

/* A flush fails; what it was for is as file_flush_fail() says. */
static void flush_fails(void)
{
    bool metadata = m.barrier || m.ring.sequence != m.ring.stable ||
                    m.ring.applied != m.ring.safe || t.header_put;

    t.must_latch = m.open && !m.broken && (metadata || data_is_named());
    m.writing = false;
    t.resumed = false;
    file_flush_fail();
    if (m.early) {
        m.early = false;
        commit_pages_again();
    }
}

static void flush_succeeds(void)
{
    RULE(!t.needs_flush || t.file_flushed, "flush-stable",
         "the file was written to, and is not flushed");
    file_flush_end();
    if (t.header_flushing) {
        header_end();
        t.header_put = t.header_flushing = false;
        t.shown = true;
    }
    if (t.barrier_flushing) {
        commit_barrier_end();
    }
    if (t.cut_flushing) {
        t.cut = false;
    }
    t.ended_stable = t.ended_flushing;
    for (int b = 0; b < blocks; b++) {
        t.replay_stable[b] |= t.replay_flushing[b];
        if (m.pages[b].written) {
            t.logged[b] = m.pages[b].committing;
        }
    }
    commit_stable();
    if (m.ring.used) {
        ring_release();
    }
    t.flushed = true;
    t.resumed |= m.broken;
    if (t.checkpoint == EMPTIED) {
        t.checkpoint = NO_CHECKPOINT;
    }
}

static void flush_ends(int ret)
{
    RULE(m.flushing, "flush-stable", "a flush ends that has not begun");
    if (ret < 0) {
        flush_fails();
    } else {
        flush_succeeds();
    }
}

/* -- Headers -- */

/* The headers are to forget the log. */
static void log_is_forgotten(void)
{
    if (m.replaying) {
        for (int b = 0; b < blocks; b++) {
            RULE(!t.to_replay[b] || t.replay_put[b], "replay-named",
                 "a header forgets the log, whose page 0x%" PRIx64
                 " is not in place", t.offsets[b]);
            RULE(!t.to_replay[b] || t.replay_stable[b], "replay-stable",
                 "a header forgets the log, whose page 0x%" PRIx64
                 " is not stable in place", t.offsets[b]);
        }
        RULE(m.size >= t.image.last, "replay-length",
             "a header forgets the log, and the file is shorter than it says");
        return;
    }
    for (int b = 0; b < blocks; b++) {
        const Page *page = &m.pages[b];

        RULE(!page->dirty && !page->taken && !page->in_log, "close-applied",
             "a header forgets the log, and page 0x%" PRIx64
             " is not stable in place", t.offsets[b]);
    }
    RULE(!m.open || m.ring.safe == m.ring.sequence, "close-applied",
         "a header forgets the log, of which not all is stable in place");
}

/* header_put() in the model */
static void header_begins(int copy, uint64_t number, uint64_t guid)
{
    int log = log_number(guid), named = header_now()->log;

    metadata_begin();
    RULE(copy != m.header, "header-order",
         "the header copy that counts is overwritten");
    RULE(!t.header_put || copy == m.header_to, "header-order",
         "a header is written while the other one is not stable");
    RULE(number - t.first_header + 1 == m.sequence + 1, "header-order",
         "header number %" PRIu64 " follows number %" PRIu64, number,
         t.first_header + m.sequence - 1);
    if (log != named && !log) {
        log_is_forgotten();
    } else if (log != named) {
        RULE(!named, "log-kept", "a header names another log");
        RULE(log == m.ring.log && m.ring.stable >= 1, "log-named",
             "a header names a log without a stable entry");
    }
    m.header_to = copy;
    t.header_put = true;
    header_write(&m.disk, copy, m.sequence + 1, log);
}

/* -- The ring -- */

static uint32_t ring_bytes_used(void)
{
    uint32_t bytes = 0;

    for (int i = 1; i <= m.ring.used; i++) {
        bytes += t.spans[slot_at(m.ring.head - i)].bytes;
    }
    return bytes;
}

/* A new log begins: ring_begin() in the model. */
static void ring_begins(int log, uint64_t number, uint32_t head)
{
    for (int i = 0; i < 2; i++) {
        const HeaderCell *cell = &m.disk.header[i];

        RULE(!cell->is_written && (!cell->stable.sequence || !cell->stable.log),
             "log-kept", "the log is overwritten while header %d names one", i);
    }
    m.replaying = false;
    m.ring = (Ring) { .log = log };
    t.first_entry = number - 1;
    t.head = head;
    memset(m.disk.slot, 0, sizeof(m.disk.slot));
}

static void entry_has_room(uint32_t bytes, int pages)
{
    uint32_t used = ring_bytes_used();

    RULE(bytes <= t.image.log_bytes - used, "ring-room",
         "an entry of %u bytes overwrites what a replay needs: %u bytes are "
         "in use", bytes, used);
    RULE(!pages || bytes <= t.image.log_bytes - PAGE_BYTES - used,
         "ring-reserve", "an entry of %u bytes leaves no room for a "
         "checkpoint: %u bytes are in use", bytes, used);
}

/* An entry's write begins, of which the file has not got anything yet. */
static void entry_begins(uint64_t number, uint64_t guid, uint32_t head,
                         uint32_t bytes, uint32_t tail, int flushed, int last,
                         int pages)
{
    int log = log_number(guid), slot;

    metadata_begin();
    if (log != m.ring.log) {
        RULE(!m.open, "log-kept", "another log begins while one is open");
        ring_begins(log, number, head);
    }
    RULE(number - t.first_entry == m.ring.sequence + 1 && head == t.head,
         "entry-retried", "entry %" PRIu64 " at 0x%x follows number %" PRIu64
         ", behind which is 0x%x", number, head,
         t.first_entry + m.ring.sequence, t.head);
    RULE(t.checkpoint != EMPTIED, "checkpoint-stable",
         "the entry of a checkpoint is not stable");
    entry_has_room(bytes, pages);
    ring_entry(&t.entry);
    if (pages) {
        RULE(m.commit_lock, "flush-stable", "an entry of no commit");
        RULE(!m.barrier, "data-barrier",
             "an entry is written before the data that it names is flushed");
        RULE(m.ring.sequence >= m.ring.given_up, "entry-retried",
             "an entry with pages has the number of one that was given up");
    } else if (m.ring.sequence) {
        RULE(t.checkpoint == TO_EMPTY, "ring-room", "an entry without pages");
        RULE(t.entry.tail == m.ring.head, "checkpoint-applied",
             "a checkpoint before all that is in the log is stable in place");
    }
    slot = t.entry.tail;
    RULE(tail == (slot == m.ring.head ? head : t.spans[slot].head),
         "tail-stable", "Tail is 0x%x, and the oldest entry whose pages may "
         "not be stable in place is at 0x%x", tail,
         slot == m.ring.head ? head : t.spans[slot].head);
    RULE(flushed <= m.stable_size, "flushed-length",
         "FlushedFileOffset is %d MiB, and %u MiB are stable", flushed,
         m.stable_size);
    RULE(last <= (t.size + MIB - 1) / MIB, "last-length",
         "LastFileOffset is %d MiB, and the file is shorter", last);
    t.entry.flushed = flushed;
    t.entry.last = last;
    t.span = (Span) { .head = head, .bytes = bytes };
    t.entry_pages = pages;
}

/* ... its page at @offset says @c. */
static void entry_page(uint64_t offset, const Content *c)
{
    int b = page_at(offset);
    Page *page = &m.pages[b];
    int end;

    RULE(t.entry_pages > 0, "taken-version", "an entry has more pages");
    if (!page->taken) {
        /* What has changed there is nothing that the model follows. */
        page->taken = true;
        page->committing = t.at_take[b];
    }
    RULE(!page->written, "taken-version", "a page is twice in a commit");
    RULE(!memcmp(contents[page->committing], c, sizeof(*c)), "taken-version",
         "a page says something else than when the commit took it");
    end = named_end(c);
    RULE(t.entry.last >= end || t.entry.last >= t.size / MIB, "last-length",
         "LastFileOffset is %u MiB, and a block ends at %d MiB", t.entry.last,
         end);
    entry_add(&t.entry, b);
}

/* early_end() in the model */
static void early_ends(int ret)
{
    m.early_write = m.commit_lock = false;
    if (ret < 0) {
        commit_pages_again();
    } else {
        m.early = true;
    }
}

/* The write of the entry has ended. */
static void entry_ends(uint64_t number, int pages, int ret)
{
    if (t.entry_pages < 0) {
        /* It has failed before it began. */
        RULE(ret < 0, "flush-stable", "an entry was not written");
    } else {
        RULE(number - t.first_entry == t.entry.sequence &&
             pages == t.entry_pages, "entry-retried", "another entry");
    }
    t.entry_pages = -1;
    if (ret < 0) {
        /* commit_fail() in the model */
        if (pages) {
            m.ring.given_up = number - t.first_entry;
        }
        if (m.early_write) {
            early_ends(ret);
        }
        return;
    }
    t.spans[m.ring.head] = t.span;
    t.head = (t.span.head + t.span.bytes) % t.image.log_bytes;
    ring_write(&t.entry);
    m.writing |= pages > 0;
    if (t.checkpoint == TO_EMPTY && !pages) {
        t.checkpoint = EMPTIED;
    }
    if (m.early_write) {
        early_ends(ret);
    }
}

/* Zeros are written to the log: a hole is filled, or an entry destroyed. */
static void log_zeros(uint32_t at, uint32_t bytes)
{
    if (m.broken) {
        return;
    }
    for (int i = 1; i <= m.ring.used; i++) {
        const Span *span = &t.spans[slot_at(m.ring.head - i)];
        uint32_t from = (at - span->head + t.image.log_bytes) %
                        t.image.log_bytes;

        RULE(from >= span->bytes && from + bytes <= t.image.log_bytes,
             "ring-reuse", "zeros are written over entry %u",
             m.ring.sequence - i + 1);
    }
}

/* Entries are taken back after a flush that failed, down to @number. */
static void ring_rewound(uint64_t number, int ret)
{
    if (ret < 0) {
        return;
    }
    RULE(number - t.first_entry == m.ring.stable, "resume-log",
         "entries up to %" PRIu64 " are kept, and are stable up to %" PRIu64,
         number, t.first_entry + m.ring.stable);
    if (m.ring.sequence > m.ring.stable) {
        ring_rewind();
        t.head = t.spans[m.ring.head].head;
    } else {
        ring_rewind();
    }
}

/* -- Pages in place -- */

static void placing_begins(uint64_t offset, const Content *c)
{
    int b = page_at(offset);
    Page *page = &m.pages[b];

    metadata_begin();
    if (m.replaying) {
        RULE(t.to_replay[b], "log-first",
             "page 0x%" PRIx64 " is put in place, which the log does not have",
             offset);
        RULE(t.shown, "replay-named",
             "a replay goes in place before a header shows that");
        return;
    }
    RULE(page_is_to_apply(page), "log-first",
         "page 0x%" PRIx64 " is put in place, and is not stable in the log",
         offset);
    RULE(!memcmp(contents[page->logged], c, sizeof(*c)), "log-first",
         "page 0x%" PRIx64 " is put in place, of which the log has another "
         "version", offset);
}

static void placing_ends(uint64_t offset)
{
    int b = page_at(offset);

    if (m.replaying) {
        t.replay_put[b] = true;
    } else {
        page_apply(b);
    }
}

/* vhdx_ring_apply() has ended. */
static void applied(int ret)
{
    if (ret < 0) {
        return;
    }
    for (int b = 0; b < blocks; b++) {
        RULE(!page_is_to_apply(&m.pages[b]), "tail-stable",
             "page 0x%" PRIx64 " has not been put in place", t.offsets[b]);
    }
    ring_applied();
}

/* -- Commits -- */

/* A commit, or an entry beside its data, takes @pages pages. */
static void pages_taken(int pages)
{
    int dirty = 0;

    RULE(!m.commit_lock, "early-locked", "two commits at the same time");
    RULE(!m.early || !pages, "early-settled", "pages are taken, and an entry "
         "that was written beside its data is not stable");
    for (int b = 0; b < blocks; b++) {
        t.at_take[b] = m.pages[b].now;
        dirty += m.pages[b].dirty;
    }
    RULE(pages >= dirty, "failed-dirty",
         "a commit takes %d pages, and %d are dirty", pages, dirty);
    m.commit_lock = true;
}

/* early_begin() in the model; the block has been published before. */
static void early_begins(int pages)
{
    RULE(t.early, "early-zero", "an entry is written beside its data");
    RULE(!m.order, "early-ordered",
         "an entry is written beside its data, and names data that is to be "
         "flushed before");
    RULE(!m.broken && !m.unsure, "early-ordered",
         "an entry is written beside its data after a flush that failed");
    pages_taken(pages);
    pages_take();
    m.early_write = true;
}

static void commit_begins(int pages, bool barrier)
{
    RULE(barrier || !m.order, "data-barrier",
         "a commit is not to flush the data that its pages name");
    pages_taken(pages);
    commit_take();
    m.barrier |= barrier;
    t.flushed = false;
}

static void commit_ends(int ret)
{
    RULE(m.commit_lock, "flush-stable", "a commit ends that has not begun");
    if (ret == 0) {
        RULE(!commit_has_pages(), "flush-stable",
             "a commit has ended, and not all of its pages are in the log");
        RULE(t.flushed && !m.writing, "flush-stable",
             "a commit has ended without a flush");
        commit_end(DONE);
    } else {
        m.order |= m.barrier;
        m.barrier = false;
        commit_pages_again();
        commit_end(FAILED);
    }
    m.commit_lock = false;
}

/* -- What may be changed -- */

static void state_changes(const char *from, const char *to)
{
    if (strcmp(to, "broken") == 0) {
        m.broken = true;
        t.must_latch = t.resumed = false;
    } else if (strcmp(from, "broken") == 0) {
        RULE(!m.order, "resume-data",
             "it goes on, though the data of new blocks may be lost");
        RULE(m.ring.sequence == m.ring.stable, "resume-log",
             "it goes on, and entries may not be stable");
        RULE(t.resumed, "flush-latched", "it goes on without a flush");
        m.broken = false;
    } else if (strcmp(from, "reading") == 0) {
        for (int i = 0; i < 2; i++) {
            RULE(m.disk.header[i].stable.log == m.ring.log, "log-named",
                 "the log is used, and header %d does not name it", i);
        }
        m.open = true;
    } else if (strcmp(to, "reading") == 0) {
        m.open = false;
    }
}

#endif
