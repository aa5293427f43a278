/* The two walks, without recursion: threads may have small stacks. */
#include "python/module_walk.h"

#include "core/address_set.h"
#include "python/borrowed.h"

#include <string.h>

/* Names already found to be plain words: "weight" and its like come hundreds of times. */
#define KNOWN_NAMES 128

/* Modules inside modules. Far above what anybody builds. */
#define MAX_DEPTH 200

static const char lacks_submodule[] = "lacks a submodule of the model";

/* Where the walk stands in one module, or in two of one name. Everything is owned. */
typedef struct {
    y5_node mine;
    y5_node
        theirs; /* all NULL below a module that the other tree lacks, and in a walk of one tree */
    PyObject *module;
    PyObject *counterpart;
    y5_path path; /* of the module; its name is NULL at the root */
    Py_ssize_t position;
    Py_ssize_t matched; /* of their submodules */
} frame;

typedef struct {
    y5_module_rules rules;
    bool states; /* two trees for their state_dict(), or one for its parameters */
    y5_visit visit;
    void *context;
    PyObject *known_names[KNOWN_NAMES]; /* owned, as all references here */
    y5_address_set seen;                /* modules and parameters, in a walk of one tree */
    frame frames[MAX_DEPTH + 1];
} walk;

static const y5_path *
path_of(const frame *at)
{
    return at->path.name != NULL ? &at->path : NULL;
}

/* Y5_OK for a name that cannot make two entries share a key, nor run code when it is looked up: a
 * str without a dot. */
static y5_status
check_name(walk *self, PyObject *name, const y5_path *parent)
{
    size_t slot = y5_slot_of(name, KNOWN_NAMES);
    if (self->known_names[slot] == name) {
        return Y5_OK;
    }
    if (!PyUnicode_CheckExact(name) ||
        PyUnicode_FindChar(name, '.', 0, PyUnicode_GetLength(name), 1) != -1) {
        return y5_refuse_module(self->rules.error, parent,
                                "has an entry whose name is no plain word");
    }
    Py_INCREF(name); /* else another object could come to the same address */
    Py_XDECREF(self->known_names[slot]);
    self->known_names[slot] = name;
    return Y5_OK;
}

/* 1 for a buffer that is no part of the state, -1 with an exception. */
static int
is_hidden(const y5_node *module, PyObject *name)
{
    return module->non_persistent != NULL ? PySet_Contains(module->non_persistent, name) : 0;
}

/* The entry `name` of an opened module's own state, or NULL, also with an exception. In a state
 * dict, a buffer takes the place of a parameter of its name. */
static PyObject *
find_entry(const y5_node *module, PyObject *name)
{
    if (PyDict_Size(module->buffers) > 0) {
        PyObject *buffer = y5_dict_get(module->buffers, name);
        if (buffer != NULL && buffer != Py_None && is_hidden(module, name) == 0) {
            return buffer;
        }
        Py_XDECREF(buffer);
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    PyObject *parameter = y5_dict_get(module->parameters, name);
    if (parameter == Py_None) {
        Py_CLEAR(parameter);
    }
    return parameter;
}

/* One entry of mine, whose name and value the caller holds. */
static y5_status
visit_entry(walk *self, const frame *at, PyObject *name, PyObject *entry, bool buffer)
{
    y5_status status = check_name(self, name, path_of(at));
    int hidden = status == Y5_OK && buffer ? is_hidden(&at->mine, name) : 0;
    if (status != Y5_OK || hidden != 0) {
        return hidden < 0 ? Y5_PYTHON_RAISED : status;
    }
    if (buffer) {
        PyObject *parameter = y5_dict_get(at->mine.parameters, name);
        Py_XDECREF(parameter);
        if (parameter != NULL) {
            return y5_refuse_module(self->rules.error, path_of(at),
                                    "has a parameter and a buffer of one name");
        }
        if (PyErr_Occurred()) {
            return Y5_PYTHON_RAISED;
        }
    }
    PyObject *counterpart = at->theirs.members != NULL ? find_entry(&at->theirs, name) : NULL;
    if (counterpart == NULL && PyErr_Occurred()) {
        return Y5_PYTHON_RAISED;
    }
    y5_path path = {path_of(at), name};
    status = self->visit(self->context, entry, counterpart, &path, self->rules.error);
    Py_XDECREF(counterpart);
    return status;
}

static y5_status
visit_entries(walk *self, const frame *at, bool buffers)
{
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *entry = NULL;
    y5_status status = Y5_OK;
    PyObject *entries = buffers ? at->mine.buffers : at->mine.parameters;
    while (status == Y5_OK && y5_dict_next(entries, &position, &name, &entry)) {
        if (entry != Py_None) {
            status = visit_entry(self, at, name, entry, buffers);
        }
        Py_DECREF(entry);
        Py_DECREF(name);
    }
    return status == Y5_OK && PyErr_Occurred() ? Y5_PYTHON_RAISED : status;
}

/* 1 where the object is seen for the first time, and is held from now on: else another object could
 * come to the same address. 0 where it was seen, -1 without memory. */
static int
see(walk *self, PyObject *object)
{
    int is_new = y5_address_set_add(&self->seen, object);
    if (is_new > 0) {
        Py_INCREF(object);
    }
    return is_new;
}

static y5_status
visit_parameters(walk *self, const frame *at)
{
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *value = NULL;
    y5_status status = Y5_OK;
    while (status == Y5_OK && y5_dict_next(at->mine.parameters, &position, &name, &value)) {
        int is_new = value == Py_None ? 0 : see(self, value);
        if (is_new > 0) {
            y5_path path = {path_of(at), name};
            status = self->visit(self->context, value, NULL, &path, self->rules.error);
        } else if (is_new < 0) {
            status = Y5_NO_MEMORY;
        }
        Py_DECREF(value);
        Py_DECREF(name);
    }
    return status;
}

/* A module that the walk enters; takes over the references of `at`. */
typedef y5_status (*open_function)(walk *self, frame *at);

static y5_status
open_states(walk *self, frame *at)
{
    y5_trail_step(self->rules.trail);
    y5_status status = y5_open_state(&self->rules, at->module, path_of(at), &at->mine);
    if (status == Y5_OK && at->counterpart != NULL) {
        status = y5_open_state(&self->rules, at->counterpart, path_of(at), &at->theirs);
    }
    if (status == Y5_OK) {
        status = visit_entries(self, at, false);
    }
    return status == Y5_OK ? visit_entries(self, at, true) : status;
}

static y5_status
open_parameters(walk *self, frame *at)
{
    y5_trail_step(self->rules.trail);
    y5_status status = y5_open_module(&self->rules, at->module, path_of(at), &at->mine);
    return status == Y5_OK ? visit_parameters(self, at) : status;
}

static void
close_frame(frame *at)
{
    y5_close_module(&at->theirs);
    y5_close_module(&at->mine);
    Py_CLEAR(at->counterpart);
    Py_CLEAR(at->module);
    Py_CLEAR(at->path.name);
}

/* Y5_OK where every submodule of theirs has its counterpart of mine: one that has none is never
 * opened, and its hooks may change the whole state dict. */
static y5_status
check_all_matched(const walk *self, const frame *at)
{
    if (at->theirs.members == NULL || at->matched == PyDict_Size(at->theirs.modules)) {
        return Y5_OK;
    }
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *child = NULL;
    y5_status status = Y5_OK;
    while (status == Y5_OK && y5_dict_next(at->theirs.modules, &position, &name, &child)) {
        PyObject *mine = child != Py_None ? y5_dict_get(at->mine.modules, name) : NULL;
        if (child != Py_None && (mine == NULL || mine == Py_None)) {
            status = PyErr_Occurred()
                         ? Y5_PYTHON_RAISED
                         : y5_refuse_module(self->rules.error, path_of(at), lacks_submodule);
        }
        Py_XDECREF(mine);
        Py_DECREF(child);
        Py_DECREF(name);
    }
    return status;
}

/* Prepares the frame below `at` for its next submodule; *found is false behind the last one. */
static y5_status
next_child(walk *self, frame *at, bool *found)
{
    frame *below = at + 1;
    y5_status status = Y5_OK;
    *found = false;
    *below = (frame){0};
    while (status == Y5_OK &&
           y5_dict_next(at->mine.modules, &at->position, &below->path.name, &below->module)) {
        below->path.parent = path_of(at);
        if (self->states) {
            status = check_name(self, below->path.name, path_of(at));
        }
        if (status == Y5_OK && at->theirs.members != NULL) {
            below->counterpart = y5_dict_get(at->theirs.modules, below->path.name);
            status = PyErr_Occurred() ? Y5_PYTHON_RAISED : Y5_OK;
            at->matched += below->counterpart != NULL;
        }
        bool hidden =
            below->module == Py_None && below->counterpart != NULL && below->counterpart != Py_None;
        if (below->counterpart == Py_None) {
            Py_CLEAR(below->counterpart);
        }
        if (status == Y5_OK && hidden) {
            status = y5_refuse_module(self->rules.error, path_of(at), lacks_submodule);
        }
        if (status == Y5_OK && below->module != Py_None) {
            *found = true;
            return Y5_OK;
        }
        close_frame(below);
    }
    return status;
}

/* The whole tree below the first frame, in the order of state_dict() and modules(). */
static y5_status
walk_tree(walk *self, open_function open)
{
    int32_t depth = 0;
    y5_status status = open(self, &self->frames[0]);
    while (status == Y5_OK && depth >= 0) {
        bool found = false;
        frame *at = &self->frames[depth];
        status = next_child(self, at, &found);
        if (status == Y5_OK && !found) {
            status = check_all_matched(self, at);
            close_frame(at);
            depth--;
        } else if (status == Y5_OK) {
            int is_new = self->states ? 1 : see(self, at[1].module);
            if (is_new == 0) {
                close_frame(&at[1]);
                continue;
            }
            depth++;
            status = is_new < 0 ? Y5_NO_MEMORY : open(self, &at[1]);
            if (status == Y5_OK && depth == MAX_DEPTH) {
                status = y5_refuse_module(self->rules.error, NULL,
                                          "modules nested too deeply, or in a circle");
            }
        }
    }
    for (; depth >= 0; depth--) {
        close_frame(&self->frames[depth]);
    }
    return status;
}

static void
free_walk(walk *self)
{
    for (size_t i = 0; i < KNOWN_NAMES; i++) {
        Py_CLEAR(self->known_names[i]);
    }
    y5_forget_types(&self->rules);
    for (size_t i = 0; i < self->seen.capacity; i++) {
        Py_XDECREF((PyObject *)(uintptr_t)self->seen.slots[i]);
    }
    y5_address_set_free(&self->seen);
    y5_unkeep(self->rules.trail, self);
}

/* A walk whose first frame holds the roots; NULL without memory. On the heap, since threads may
 * have small stacks. */
static walk *
new_walk(const y5_state *state, y5_trail *trail, PyObject *module, PyObject *counterpart,
         y5_visit visit, void *context, y5_error *error)
{
    walk *self = y5_keep(trail, Y5_KEPT_WALK, sizeof(*self));
    if (self == NULL) {
        return NULL;
    }
    memset(self, 0, offsetof(walk, frames) + sizeof(self->frames[0]));
    self->rules.state = state;
    self->rules.trail = trail;
    self->rules.error = error;
    self->visit = visit;
    self->context = context;
    Py_INCREF(module);
    Py_XINCREF(counterpart);
    self->frames[0].module = module;
    self->frames[0].counterpart = counterpart;
    return self;
}

y5_status
y5_walk_states(const y5_state *state, y5_trail *trail, PyObject *average, PyObject *source,
               y5_visit visit, void *context, y5_error *error)
{
    walk *self = new_walk(state, trail, average, source, visit, context, error);
    if (self == NULL) {
        return Y5_NO_MEMORY;
    }
    self->states = true;
    self->rules.first_method = Y5_METHOD_STATE_DICT;
    self->rules.last_method = Y5_METHOD_GET_EXTRA_STATE + 1;
    self->rules.last_inner = Y5_METHOD_GET_EXTRA_STATE; /* torch looks that one up on the type */
    self->rules.last_outer = Y5_METHOD_GET_EXTRA_STATE;
    y5_status status = walk_tree(self, open_states);
    free_walk(self);
    return status;
}

y5_status
y5_walk_parameters(const y5_state *state, y5_trail *trail, PyObject *module, y5_visit visit,
                   void *context, y5_error *error)
{
    walk *self = new_walk(state, trail, module, NULL, visit, context, error);
    if (self == NULL) {
        return Y5_NO_MEMORY;
    }
    self->rules.first_method = Y5_METHOD_NAMED_MODULES;
    self->rules.last_method = Y5_METHOD_EQUAL + 1;
    self->rules.last_inner = Y5_METHOD_NAMED_MODULES + 1;
    self->rules.last_outer = Y5_METHOD_NAMED_MEMBERS + 1;
    y5_status status = see(self, module) < 0 ? Y5_NO_MEMORY : Y5_OK;
    if (status == Y5_OK) {
        status = walk_tree(self, open_parameters);
    } else {
        close_frame(&self->frames[0]);
    }
    free_walk(self);
    return status;
}
