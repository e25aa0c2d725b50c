/*
 * What a cut leaves: a replay of it, and the recovery that follows, which may
 * be cut off as well.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_LOG_REPLAY_H
#define MODEL_LOG_REPLAY_H

#include "log.h"

/* One of the states that a cut may leave */
typedef struct Image {
    Header header[2];
    Entry slot[SLOTS];
    uint8_t page[BLOCKS];
    uint8_t length;
} Image;

/* What a reader finds in it */
typedef struct Found {
    const char *wrong;
    uint8_t page[BLOCKS];
    uint8_t length;
} Found;

typedef bool (*ImageCheck)(const Image *image);

/* -- What may survive -- */

static bool length_survivals(const Disk *d, Image *image, ImageCheck check)
{
    for (int n = 0; n <= PLACES; n++) {
        image->length = n;
        if (d->length.may >> n & 1 && !check(image)) {
            return false;
        }
    }
    return true;
}

static bool page_survivals(const Disk *d, Image *image, int b, ImageCheck check)
{
    if (b == BLOCKS) {
        return length_survivals(d, image, check);
    }
    for (int n = 0; n <= PLACES; n++) {
        image->page[b] = n;
        if (d->page[b].may >> n & 1 &&
            !page_survivals(d, image, b + 1, check)) {
            return false;
        }
    }
    return true;
}

/* A slot has what is stable, what was written, or something torn. */
static bool slot_survivals(const Disk *d, Image *image, int slot,
                           ImageCheck check)
{
    const SlotCell *cell = &d->slot[slot];

    if (slot == SLOTS) {
        return page_survivals(d, image, 0, check);
    }
    image->slot[slot] = cell->stable;
    if (!slot_survivals(d, image, slot + 1, check)) {
        return false;
    }
    for (int i = 0; i < cell->writes; i++) {
        image->slot[slot] = cell->written[i];
        if (!slot_survivals(d, image, slot + 1, check)) {
            return false;
        }
    }
    image->slot[slot] = (Entry) { 0 };
    return !cell->writes || slot_survivals(d, image, slot + 1, check);
}

static bool header_survivals(const Disk *d, Image *image, int copy,
                             ImageCheck check)
{
    const HeaderCell *cell = &d->header[copy];

    if (copy == 2) {
        return slot_survivals(d, image, 0, check);
    }
    image->header[copy] = cell->stable;
    if (!header_survivals(d, image, copy + 1, check)) {
        return false;
    }
    if (cell->is_written) {
        image->header[copy] = cell->written;
        if (!header_survivals(d, image, copy + 1, check)) {
            return false;
        }
        image->header[copy] = (Header) { 0 };
        return header_survivals(d, image, copy + 1, check);
    }
    return true;
}

/* Whether @check holds for all that a cut may leave of @d */
static bool survivals(const Disk *d, ImageCheck check)
{
    Image image;

    memset(&image, 0, sizeof(image));
    return header_survivals(d, &image, 0, check);
}

/* -- Replay -- */

/* The copy that counts, or -1 */
static int header_choose(const Header header[2])
{
    if (!header[0].sequence && !header[1].sequence) {
        return -1;
    }
    return header[1].sequence > header[0].sequence;
}

/* How many entries there are from the Tail of @slot's to it, or 0 */
static int sequence_length(const Image *image, int log, int slot)
{
    const Entry *head = &image->slot[slot];
    int n = slot_at(slot - head->tail) % slots;

    if (head->log != log) {
        return 0;
    }
    for (int i = 0; i <= n; i++) {
        const Entry *entry = &image->slot[slot_at(slot - i)];

        if (entry->log != log || entry->sequence != head->sequence - i) {
            return 0;
        }
    }
    return n + 1;
}

/* The slot of the newest entry of the active sequence, or -1 */
static int sequence_find(const Image *image, int log)
{
    int best = -1;

    for (int i = 0; i < slots; i++) {
        if (sequence_length(image, log, i) &&
            (best < 0 ||
             image->slot[i].sequence > image->slot[best].sequence)) {
            best = i;
        }
    }
    return best;
}

/* Replay the log whose newest entry is in @slot. */
static void replay_log(const Image *image, int log, int slot, Found *found)
{
    const Entry *head = &image->slot[slot];

    for (int i = sequence_length(image, log, slot) - 1; i >= 0; i--) {
        const Entry *entry = &image->slot[slot_at(slot - i)];

        for (int b = 0; b < BLOCKS; b++) {
            if (entry->page[b]) {
                found->page[b] = entry->page[b] - 1;
            }
        }
    }
    if (image->length < head->flushed) {
        found->wrong = "the file is shorter than FlushedFileOffset";
    }
    if (image->length < head->last && defect != REPLAY_SHORT) {
        found->length = head->last;     /* [replay-length] */
    }
}

/* What a reader finds in @image */
static Found replay(const Image *image)
{
    Found found = { .length = image->length };
    int copy = header_choose(image->header), slot;

    memcpy(found.page, image->page, sizeof(found.page));
    if (copy < 0) {
        found.wrong = "no header is valid";
        return found;
    }
    if (image->header[copy].log) {
        slot = sequence_find(image, image->header[copy].log);
        if (slot < 0) {
            found.wrong = "the log has no valid sequence";
            return found;
        }
        replay_log(image, image->header[copy].log, slot, &found);
    }
    for (int b = 0; b < BLOCKS; b++) {
        if (found.page[b] > found.length) {
            found.wrong = "a block lies behind the file's end";
        }
    }
    for (int b = 1; b < BLOCKS; b++) {
        if (found.page[b] && memchr(found.page, found.page[b], b)) {
            found.wrong = "two blocks have one place";
        }
    }
    return found;
}

/* -- Recovery -- */

/* What is to be found while the recovery goes on */
static Found recovered;

static bool reads_the_same(const Image *image)
{
    Found found = replay(image);

    if (found.wrong ||
        memcmp(found.page, recovered.page, sizeof(found.page)) != 0) {
        recovered.wrong = found.wrong ? found.wrong :
                          "a cut in the recovery makes a difference";
        return false;
    }
    return true;
}

/* Something has been written: look at what a cut leaves, and flush. */
static bool recovery_step(Disk *d)
{
    if (!survivals(d, reads_the_same)) {
        return false;
    }
    disk_flush_begin(d);
    disk_flush_end(d);
    return true;
}

static void image_to_disk(const Image *image, Disk *d)
{
    memset(d, 0, sizeof(*d));
    for (int i = 0; i < 2; i++) {
        d->header[i].stable = image->header[i];
    }
    for (int i = 0; i < SLOTS; i++) {
        d->slot[i].stable = image->slot[i];
    }
    for (int b = 0; b < BLOCKS; b++) {
        cell_set(&d->page[b], 1 << image->page[b]);
    }
    cell_set(&d->length, 1 << image->length);
}

/* Put the replay in place, so that neither header names the old log. */
static bool recover_replay(Disk *d, int copy, int sequence, int log)
{
    header_write(d, !copy, sequence + 1,
                 defect == REPLAY_FORGETS_LOG ? 0 : log);
    if (!recovery_step(d)) {    /* [replay-named] */
        return false;
    }
    for (int b = 0; b < BLOCKS; b++) {
        value_write(&d->page[b], recovered.page[b]);
    }
    value_write(&d->length, recovered.length);
    /* [replay-stable] */
    if (defect != REPLAY_UNFLUSHED && !recovery_step(d)) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        header_write(d, i ? !copy : copy, sequence + 2 + i, 0);
        if (!recovery_step(d)) {
            return false;
        }
    }
    return true;
}

/* Where the last block ends */
static int found_end(const Found *found)
{
    int end = 0;

    for (int b = 0; b < BLOCKS; b++) {
        end = end > found->page[b] ? end : found->page[b];
    }
    return end;
}

/*
 * The first modification of @image, up to where both headers name a new log.
 * After a replay what is free at the file's end is cut.
 */
static bool recovery_is_right(const Image *image)
{
    int copy = header_choose(image->header);
    int sequence = image->header[copy].sequence, log = image->header[copy].log;
    int end = log ? found_end(&recovered) : recovered.length;
    Entry first = { .log = 0xff, .sequence = 1, .flushed = end, .last = end };
    Disk d;

    image_to_disk(image, &d);
    if (log && defect != LOG_OVERWRITTEN) {
        if (!recover_replay(&d, copy, sequence, log)) {
            return false;
        }
        copy = !copy;
        sequence += 3;
    } else if (!log) {
        copy = !copy;
        sequence++;
        header_write(&d, copy, sequence, 0);
        if (!recovery_step(&d)) {
            return false;
        }
    }
    value_write(&d.length, end);    /* not stable before the new log is */
    slot_write(&d, 0, &first);          /* [log-kept] */
    if (!recovery_step(&d)) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        copy = !copy;
        header_write(&d, copy, ++sequence, first.log);
        if (!recovery_step(&d)) {
            return false;
        }
    }
    return true;
}

/* -- What has been looked at already -- */

enum { MEMO = 1 << 16 };

/*
 * What is found in @image, be it that a cut goes through its recovery: that is
 * the same for all states that leave such an image, and kept.
 */
static const Found *image_find(const Image *image)
{
    static struct { Image image; uint8_t known; Found found; } memo[MEMO];
    uint32_t hash = 2166136261u;
    const uint8_t *bytes = (const uint8_t *)image;

    for (size_t i = 0; i < sizeof(*image); i++) {
        hash = (hash ^ bytes[i]) * 16777619u;
    }
    hash = (hash ^ hash >> 16) % MEMO;
    if (!memo[hash].known ||
        memcmp(&memo[hash].image, image, sizeof(*image)) != 0) {
        memo[hash].known = true;
        memo[hash].image = *image;
        memo[hash].found = recovered = replay(image);
        if (!recovered.wrong && !recovery_is_right(image)) {
            memo[hash].found.wrong = recovered.wrong;
        }
    }
    return &memo[hash].found;
}

#endif
