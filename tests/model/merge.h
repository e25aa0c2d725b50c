/*
 * What the model of merges is made of: the files of a chain, each with its
 * header, locator and sectors, of which a cut may leave any version that is not
 * flushed; and what of it is open.
 *
 * A file's own log is left out: what goes through it is one write here, with a
 * flush behind.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_MERGE_H
#define MODEL_MERGE_H

#include <assert.h>
#include "cell.h"

/*
 * TOP is over MID, which is over BASE.  SIBLING is another child of BASE, CLONE
 * one of MID; nobody uses them, but they have nodes here.  OVERLAY is made over
 * TOP.
 */
enum { BASE, MID, TOP, SIBLING, CLONE, OVERLAY, FILES };

enum { SECTORS = 3, VERSIONS = 4, NIL = 0, NOBODY = FILES + 1 };

/* What DEFECT names, in the order of defect_names */
enum {
    HEADER_BEFORE_TELLING = 1, TIDIED_BEFORE_HEADER, DATA_BEFORE_HEADER,
    EMPTY_BEFORE_FLUSH, NO_R4, TOLD_NOT_IN_USE, MIDDLE_KEEPS_GUID,
    TOLD_FROM_BELOW, TIDIED_UNLOCKED, TIDIED_TO_TOLD, LINKED_BEFORE_FLUSH,
    NOT_RELINKED, SNAPSHOT_UNFLUSHED, HEADER_UNFLUSHED, TOLD_UNFLUSHED,
    STALE_OVERLAY_TOLD,
};

static const char *const defect_names[] = {
    "header-before-telling", "tidied-before-header", "data-before-header",
    "empty-before-flush", "no-r4", "told-not-in-use", "middle-keeps-guid",
    "told-from-below", "tidied-unlocked", "tidied-to-told",
    "linked-before-flush", "not-relinked", "snapshot-unflushed",
    "header-unflushed", "told-unflushed", "stale-overlay-told",
};

static int defect;

/* The first version is stable, the last what a reader sees now. */
typedef struct Part {
    uint16_t version[VERSIONS];
    uint8_t count;
} Part;

typedef struct File {
    Part guid;                  /* DataWriteGuid */
    Part locator;               /* see locator() */
    Part sector[SECTORS];       /* a value, or 0 where it is the parent's */
} File;

/* What sectors hold */
enum { OF_BASE = 1, OF_MID = 2, OF_TOP = 4, WRITTEN = 8, OVERWRITTEN = 16 };

typedef struct Chain {
    File file[FILES];
    Values must[SECTORS];       /* what the guest may see after a cut */
    Values stale[SECTORS];      /* ... and of the overlay that it used before */
    uint8_t active;             /* the file that the guest writes to */
    uint8_t next_guid;
    uint8_t lock[FILES];        /* commit_lock */
    uint8_t told[FILES];        /* who knows of its GUID; NOBODY: an old one */
    uint8_t tidying;            /* the child that R3 is at work on, or BASE */
    uint8_t cuts;               /* that are still to come */
    uint8_t is_cut;
} Chain;

static Chain m;

/* From MODEL */
static int most_merges;

/* -- Files -- */

static void part_start(Part *p, uint16_t value)
{
    *p = (Part) { .version[0] = value, .count = 1 };
}

static uint16_t part_now(const Part *p)
{
    return p->version[p->count - 1];
}

static void part_write(Part *p, uint16_t value)
{
    if (part_now(p) != value) {
        assert(p->count < VERSIONS);
        p->version[p->count++] = value;
    }
}

static void file_flush(int file)
{
    File *f = &m.file[file];

    part_start(&f->guid, part_now(&f->guid));
    part_start(&f->locator, part_now(&f->locator));
    for (int i = 0; i < SECTORS; i++) {
        part_start(&f->sector[i], part_now(&f->sector[i]));
    }
}

/* A locator: the two linkages, and the file that its path names */
static uint16_t locator(int linkage, int linkage2, int parent)
{
    return linkage | linkage2 << 5 | parent << 10;
}

static int locator_linkage(uint16_t l)
{
    return l & 31;
}

static int locator_linkage2(uint16_t l)
{
    return l >> 5 & 31;
}

static int locator_parent(uint16_t l)
{
    return l >> 10;
}

static int guid_now(int file)
{
    return part_now(&m.file[file].guid);
}

static uint16_t locator_now(int file)
{
    return part_now(&m.file[file].locator);
}

static void locator_write(int file, int linkage, int linkage2, int parent)
{
    part_write(&m.file[file].locator, locator(linkage, linkage2, parent));
}

/* What is read of a sector of @file now */
static int read_now(int file, int i)
{
    int value;

    while (!(value = part_now(&m.file[file].sector[i])) && file != BASE) {
        file = locator_parent(locator_now(file));
    }
    return value;
}

/* -- Steps of a merge -- */

/* The child of @file that is in use, or FILES */
static int child_in_use(int file)
{
    int child = m.active;

    while (child != file) {
        int parent;

        if (child == BASE) {
            return FILES;
        }
        parent = locator_parent(locator_now(child));
        if (parent == file) {
            return child;
        }
        child = parent;
    }
    return FILES;
}

/*
 * In case of a defect, the child that is told and is not in use, or FILES:
 * one that only has a node, or, where the guest writes to @file itself, the one
 * that it used before.
 */
static int child_told_too(int file)
{
    if (defect != TOLD_NOT_IN_USE &&  /* [told-used] */
        (defect != STALE_OVERLAY_TOLD || file != m.active)) {
        return FILES;
    }
    for (int child = FILES - 2; child > BASE; child--) {
        if (child != child_in_use(file) &&
            locator_parent(locator_now(child)) == file) {
            return child;
        }
    }
    return FILES;
}

/* R1: @child learns of the GUID that its parent is going to have. */
static void child_tell(int child, int next)
{
    int parent = locator_parent(locator_now(child));

    locator_write(child, guid_now(parent), next, parent);
}

/* R1 and R3: it has no linkage but the parent's GUID. */
static void child_tidy(int child, int guid)
{
    locator_write(child, guid, NIL, locator_parent(locator_now(child)));
}

/* R3: whether a child that has two linkages may be tidied now */
static bool child_may_tidy(int child)
{
    uint16_t l = locator_now(child);
    int parent = locator_parent(l);

    return !m.tidying && !m.lock[child] && locator_linkage2(l) != NIL &&
           /* [parent-locked] */
           (!m.lock[parent] || defect == TIDIED_UNLOCKED) &&
           (guid_now(parent) == locator_linkage(l) ||
            guid_now(parent) == locator_linkage2(l));
}

/* It takes both locks, in case of a defect only its own. */
static void tidy_begin(int child)
{
    int parent = locator_parent(locator_now(child));

    m.tidying = child;
    m.lock[child] = true;
    m.lock[parent] |= defect != TIDIED_UNLOCKED;
    child_tidy(child, defect == TIDIED_TO_TOLD ?  /* [told-first] */
                      locator_linkage2(locator_now(child)) : guid_now(parent));
}

static void tidy_end(void)
{
    int child = m.tidying;

    m.tidying = BASE;
    file_flush(child);
    m.lock[child] = false;
    if (defect != TIDIED_UNLOCKED) {
        m.lock[locator_parent(locator_now(child))] = false;
    }
}

/* R4: whether the GUID was told to another child than the one in use now */
static bool guid_is_good(int file)
{
    /* [told-used] */
    return defect == NO_R4 || m.told[file] == child_in_use(file);
}

static int guid_new(void)
{
    assert(m.next_guid < 32);
    return m.next_guid++;
}

/* The content of a sector goes to @to, from those above up to @from. */
static void merge_sector(int from, int to, int i)
{
    if (read_now(from, i) != read_now(to, i)) {
        part_write(&m.file[to].sector[i], read_now(from, i));
    }
}

static void make_empty(int file)
{
    for (int i = 0; i < SECTORS; i++) {
        part_write(&m.file[file].sector[i], 0);
    }
}

/* The guest writes; a cut may leave the old content until it has flushed. */
static void guest_write(int i, int value)
{
    part_write(&m.file[m.active].sector[i], value);
    m.must[i] |= value;
}

static void guest_flush(void)
{
    file_flush(m.active);
    for (int i = 0; i < SECTORS; i++) {
        m.must[i] = read_now(m.active, i);
    }
}

/* The guest goes on with the image that the overlay was merged into. */
static void pivot(int file)
{
    if (m.active == TOP) {
        memcpy(m.stale, m.must, sizeof(m.stale));
    }
    m.active = file;
}

static bool is_in_chain(int file)
{
    return file == m.active || child_in_use(file) != FILES;
}

/* -- The order in which images take a new GUID for a merge to @to -- */

static int guid_first(int to)
{
    /* [middle-guid] */
    return defect == MIDDLE_KEEPS_GUID || defect == TOLD_FROM_BELOW ? to :
           locator_parent(locator_now(m.active));
}

static int guid_next(int file)
{
    return defect == TOLD_FROM_BELOW ? child_in_use(file) :
           locator_parent(locator_now(file));
}

static bool guid_is_last(int file, int to)
{
    return defect == TOLD_FROM_BELOW ? child_in_use(file) == m.active :
           file == to;
}

static void told_flush(int child)
{
    if (defect != TOLD_UNFLUSHED) {  /* [told-first] */
        file_flush(child);
    }
}

static void header_flush(int file)
{
    if (defect != HEADER_UNFLUSHED) {  /* [told-first] */
        file_flush(file);
    }
}

/* -- A cut -- */

static int cut_part(Part *p, int left)
{
    int count = p->count;

    part_start(p, p->version[left % count]);
    return left / count;
}

/* Leave the @choice-th of all that a cut can leave.  Whether there is one */
static bool cut(int choice)
{
    for (int file = BASE; file < FILES; file++) {
        File *f = &m.file[file];

        choice = cut_part(&f->guid, choice);
        choice = cut_part(&f->locator, choice);
        for (int i = 0; i < SECTORS; i++) {
            choice = cut_part(&f->sector[i], choice);
        }
    }
    memset(m.lock, false, sizeof(m.lock));
    memset(m.told, NOBODY, sizeof(m.told));
    m.tidying = BASE;
    m.is_cut = true;
    m.cuts--;
    for (int i = 0; i < SECTORS; i++) {
        m.must[i] = read_now(m.active, i);
    }
    return choice == 0;
}

static bool cut_is_left(int choice)
{
    Chain before = m;
    bool left = m.cuts && cut(choice);

    m = before;
    return left;
}

/* -- The beginning -- */

static void file_start(int file, int parent, int value, int sector)
{
    File *f = &m.file[file];

    part_start(&f->guid, file + 1);
    part_start(&f->locator, locator(file == BASE ? NIL : parent + 1, NIL,
                                    parent));
    for (int i = 0; i < SECTORS; i++) {
        part_start(&f->sector[i], i == sector || file == BASE ? value : 0);
    }
}

static void chain_start(void)
{
    memset(&m, 0, sizeof(m));
    defect = model_defect(defect_names,
                          sizeof(defect_names) / sizeof(*defect_names));
    file_start(BASE, BASE, OF_BASE, 0);
    file_start(MID, BASE, OF_MID, 0);
    file_start(TOP, MID, OF_TOP, 1);
    file_start(SIBLING, BASE, 0, 0);
    file_start(CLONE, MID, 0, 0);
    file_start(OVERLAY, TOP, 0, 0);
    m.active = TOP;
    m.cuts = model_option("cuts", 1);
    most_merges = model_option("merges", 2);
    m.next_guid = FILES + 1;
    memset(m.told, NOBODY, sizeof(m.told));
    for (int i = 0; i < SECTORS; i++) {
        m.must[i] = read_now(TOP, i);
    }
}

#endif
