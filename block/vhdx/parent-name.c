/*
 * VHDX: from a file to the parent locator
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/block.h"
#include "block/vhdx/parent-name.h"
#include "block/vhdx/parent-path.h"

/* @path with the format's separator, once each; it has no '\\' */
static char *path_encode(const char *prefix, const char *path)
{
    GString *text = g_string_new(prefix);

    for (; *path; path++) {
        if (path[0] != '/' || path[1] != '/') {
            g_string_append_c(text, *path == '/' ? '\\' : *path);
        }
    }
    return g_string_free(text, false);
}

/*
 * The way from the folder of @child to @parent, where both are, or NULL: the
 * folders' real paths are what '..' goes by.
 */
static char *path_between(const char *child, const char *parent)
{
    g_autofree char *child_folder = g_path_get_dirname(child);
    g_autofree char *parent_folder = g_path_get_dirname(parent);
    g_autofree char *name = g_path_get_basename(parent);
    g_autofree char *from = realpath(child_folder, NULL);
    g_autofree char *to = realpath(parent_folder, NULL);
    g_auto(GStrv) up = NULL, down = NULL;
    GString *way;
    size_t same = 0;

    if (!from || !to) {
        return NULL;
    }
    up = g_strsplit(from + 1, "/", from[1] ? -1 : 0);
    down = g_strsplit(to + 1, "/", to[1] ? -1 : 0);
    while (up[same] && down[same] && !strcmp(up[same], down[same])) {
        same++;
    }
    way = g_string_new(up[same] ? NULL : "./");
    for (size_t i = same; up[i]; i++) {
        g_string_append(way, "../");
    }
    for (size_t i = same; down[i]; i++) {
        g_string_append_printf(way, "%s/", down[i]);
    }
    g_string_append(way, name);
    return g_string_free(way, false);
}

/* Whether there is one in @name; what is not UTF-8 is refused later. */
static bool has_control(const char *name)
{
    const char *end;

    if (!g_utf8_validate(name, -1, &end)) {
        return false;
    }
    while (name < end) {
        if (g_unichar_iscntrl(g_utf8_get_char(name))) {
            return true;
        }
        name = g_utf8_next_char(name);
    }
    return false;
}

/*
 * Put the paths into @loc by which @child is to find its parent @parent, a
 * name as a user gives it, relative to the folder of @child or absolute
 * (section 2.6.2.6.3).  @child is NULL where it is no local file; @path is the
 * parent's from here, or NULL.
 */
static int path_store(VHDXLocator *loc, const char *child, const char *parent,
                      const char *path, Error **errp)
{
    g_autofree char *way = NULL;
    const char *refused = NULL;

    /* What is not there yet is looked at when it is searched for. */
    if (path && access(path, F_OK) == 0) {
        refused = vhdx_parent_path_refused(path);
    }
    if (refused) {
        error_setg(errp, "The parent locator can't name '%s': %s", parent,
                   refused);
        return -EINVAL;
    }
    if (has_control(parent)) {
        error_setg(errp, "The parent locator can't name '%s': there are "
                   "control characters in it", parent);
        return -EINVAL;
    }
    if (strchr(parent, '\\')) {
        error_setg(errp, "The parent locator can't name '%s': there is a '\\' "
                   "in it, which separates directories there", parent);
        return -EINVAL;
    }
    if (parent[0] != '/') {
        loc->relative_path = path_encode(parent[0] == '.' ? "" : ".\\", parent);
        return 0;
    }
    if (!child) {
        error_setg(errp, "The parent locator can't name '%s': the child is no "
                   "local file", parent);
        return -EINVAL;
    }
    way = path_between(child, parent);
    loc->relative_path = way ? path_encode("", way) : NULL;
    loc->absolute_win32_path = path_encode("", parent);
    return 0;
}

int vhdx_parent_name_store(VHDXLocator *loc, const char *child,
                           const char *name, const char *path, Error **errp)
{
    g_autofree char *absolute = NULL, *cwd = NULL;
    bool given_relative = path && path[0] != '/';
    int ret;

    if (!path_has_protocol(name)) {
        return path_store(loc, path_has_protocol(child) ? NULL : child, name,
                          path, errp);
    }
    if (!path) {
        error_setg(errp, "The parent locator can't name '%s', which is no "
                   "local file", name);
        return -EINVAL;
    }
    /* Such a name is relative to where we are, not to the child. */
    cwd = g_get_current_dir();
    absolute = given_relative ? g_build_filename(cwd, path, NULL) :
               g_strdup(path);
    ret = path_store(loc, child, absolute, path, errp);
    if (ret == 0 && given_relative && loc->relative_path) {
        g_clear_pointer(&loc->absolute_win32_path, g_free);
    }
    return ret;
}
