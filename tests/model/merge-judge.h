/*
 * What each chain shows after a cut at this moment: the guest's own opens and
 * reads right, all others read right or are refused.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_MERGE_JUDGE_H
#define MODEL_MERGE_JUDGE_H

#include "merge.h"

/* What is wrong; not part of the state */
static char wrong[120];

static const char *const file_names[] = {
    "base", "mid", "top", "sibling", "clone", "overlay",
};

/* What may be seen of a chain from one file on */
typedef struct View {
    bool refused;               /* in some case */
    Values seen[SECTORS];       /* where it is not */
} View;

static void sector_add(const Part *p, Values below, Values *seen)
{
    for (int i = 0; i < p->count; i++) {
        *seen |= p->version[i] ? p->version[i] : below;
    }
}

static View view(int file);

/* Add what is seen if the file's locator is @l. */
static void view_add(int file, uint16_t l, View *v)
{
    int parent = locator_parent(l);
    const Part *guid = &m.file[parent].guid;
    View below = view(parent);
    bool linked = false;

    for (int i = 0; i < guid->count; i++) {
        int g = guid->version[i];

        if (g == locator_linkage(l) || g == locator_linkage2(l)) {
            linked = true;
        } else {
            v->refused = true;
        }
    }
    if (!linked) {
        return;
    }
    v->refused |= below.refused;
    for (int i = 0; i < SECTORS; i++) {
        if (below.seen[i]) {
            sector_add(&m.file[file].sector[i], below.seen[i], &v->seen[i]);
        }
    }
}

/* All that the versions of the files of a chain can show */
static View view(int file)
{
    const File *f = &m.file[file];
    View v = { 0 };

    for (int i = 0; i < SECTORS && file == BASE; i++) {
        sector_add(&f->sector[i], 0, &v.seen[i]);
    }
    for (int i = 0; i < f->locator.count && file != BASE; i++) {
        view_add(file, f->locator.version[i], &v);
    }
    return v;
}

/* Whether the chain of @file shows what it must, or is refused where it may */
static bool view_is_right(int file, const Values *must, bool opens)
{
    View v = view(file);

    if (opens && v.refused) {
        snprintf(wrong, sizeof(wrong), "after a cut %s is refused",
                 file_names[file]);
        return false;
    }
    for (int i = 0; i < SECTORS; i++) {
        if (v.seen[i] & ~must[i]) {
            snprintf(wrong, sizeof(wrong), "after a cut sector %d of %s shows "
                     "what it must not", i, file_names[file]);
            return false;
        }
    }
    return true;
}

/* Whether something is wrong in this state */
static bool is_wrong(void)
{
    static const Values sibling[] = { OF_BASE, OF_BASE, OF_BASE };
    static const Values clone[] = { OF_MID, OF_BASE, OF_BASE };

    return !view_is_right(m.active, m.must, true) ||
           !view_is_right(SIBLING, sibling, false) ||
           !view_is_right(CLONE, clone, false) ||
           (m.active < TOP && !view_is_right(TOP, m.stale, false));
}

#endif
