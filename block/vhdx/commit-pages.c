/*
 * VHDX: the pages of a commit
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/lock.h"
#include "commit-int.h"

/*
 * Compare two VHDXPage * by their order in the log of a differencing image, as
 * a power cut may leave only the first entries of a commit.  Sector bitmaps
 * come before the BAT, as an entry gives bits their meaning, and the BAT's
 * pages come from the last to the first: a bitmap's entry stands behind those
 * of its blocks. [bits-first]
 */
static int child_order(const void *a, const void *b, void *opaque)
{
    BDRVVHDXState *s = opaque;
    const VHDXPage *x = *(VHDXPage **)a, *y = *(VHDXPage **)b;
    bool x_bat = x->offset - s->bat.offset < s->bat.length;
    bool y_bat = y->offset - s->bat.offset < s->bat.length;

    if (x_bat && y_bat) {
        return vhdx_cache_page_compare(b, a);
    }
    return x_bat || y_bat ? x_bat - y_bat : vhdx_cache_page_compare(a, b);
}

/* [taken-version] */
void vhdx_commit_take(BDRVVHDXState *s, VHDXCommit *c)
{
    VHDXPage *page;

    *c = (VHDXCommit) { .pages = g_ptr_array_new() };
    while ((page = vhdx_cache_take_dirty(s))) {
        g_ptr_array_add(c->pages, page);
    }
    if (s->params.has_parent) {
        g_ptr_array_sort_with_data(c->pages, child_order, s);
    } else {
        /* What lies together is read together when the log is replayed. */
        g_ptr_array_sort(c->pages, vhdx_cache_page_compare);
    }
    c->data = g_new(uint8_t *, c->pages->len);
    c->offsets = g_new(uint64_t, c->pages->len);
    for (guint i = 0; i < c->pages->len; i++) {
        page = g_ptr_array_index(c->pages, i);
        c->offsets[i] = page->offset;
        c->data[i] = page->committing;
    }
}

/* [log-first] */
void vhdx_commit_stable(BDRVVHDXState *s, VHDXCommit *c)
{
    VHDX_LOCK_GUARD(s);
    for (; c->stable < c->written; c->stable++) {
        vhdx_cache_settle(s, g_ptr_array_index(c->pages, c->stable), true);
    }
}

/* [failed-dirty] */
void vhdx_commit_end(BDRVVHDXState *s, VHDXCommit *c)
{
    VHDX_LOCK_GUARD(s);
    for (guint i = c->stable; i < c->pages->len; i++) {
        vhdx_cache_settle(s, g_ptr_array_index(c->pages, i), false);
    }
    g_ptr_array_unref(c->pages);
    g_free(c->data);
    g_free(c->offsets);
}
