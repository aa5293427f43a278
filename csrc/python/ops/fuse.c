/* fuse: convolutions and batch norms, read as the original does, and the modules they become. */
#include "plan/fuse.h"

#include "python/bindings.h"
#include "python/borrowed.h"
#include "python/call.h"
#include "python/errors.h"
#include "python/ops/fuse_module.h"

#include <float.h>
#include <math.h>

/* Everything of one call. */
typedef struct {
    const y5_state *state;
    y5_call call;
    y5_fuse_plan plan;
    y5_fuse_module *modules; /* one for each pair */
    y5_error *error;
} fusion;

/* Adds a tensor of a pair. */
static y5_status
add_tensor(fusion *self, PyObject *tensor, int64_t pair, y5_fuse_role role)
{
    uint8_t needs = role < Y5_FUSED_WEIGHT ? Y5_SIGNED : Y5_WRITTEN;
    self->plan.slots[self->call.count] = (y5_fuse_slot){pair, role};
    y5_status status =
        y5_call_add(self->state, &self->call, tensor, Y5_FUSE_GROUP(role), needs, self->error);
    if (status == Y5_UNSUPPORTED) {
        y5_blame(self->error, y5_fuse_name(role));
    }
    return status;
}

/* Adds owner.name. */
static y5_status
take_tensor(fusion *self, const y5_owner *from, int32_t name, int64_t pair, y5_fuse_role role)
{
    PyObject *tensor = y5_owner_get(from, self->state->names[name]);
    if (tensor == NULL) {
        return y5_attribute_missing(self->error);
    }
    y5_status status = add_tensor(self, tensor, pair, role);
    Py_DECREF(tensor);
    return status;
}

static y5_status
read_eps(fusion *self, const y5_owner *bn, double *eps)
{
    PyObject *given = y5_owner_get(bn, self->state->names[Y5_NAME_EPS]);
    if (given == NULL) {
        return y5_attribute_missing(self->error);
    }
    bool valid = PyFloat_CheckExact(given);
    *eps = valid ? PyFloat_AsDouble(given) : 0;
    Py_DECREF(given);
    if (!valid || (fabs(*eps) > (double)FLT_MAX && !isinf(*eps))) {
        return y5_fail(self->error, Y5_UNSUPPORTED, "bn.eps", "not a Python float within float32");
    }
    return Y5_OK;
}

static y5_status
take_bias(fusion *self, const y5_owner *conv, int64_t pair)
{
    PyObject *bias = y5_owner_get(conv, self->state->names[Y5_NAME_BIAS]);
    if (bias == NULL) {
        return y5_attribute_missing(self->error);
    }
    y5_status status = bias != Py_None ? add_tensor(self, bias, pair, Y5_FUSE_BIAS) : Y5_OK;
    Py_DECREF(bias);
    return status;
}

/* Reads all that the original reads of a pair. */
static y5_status
take_attributes(fusion *self, const y5_owner *conv, const y5_owner *bn, int64_t pair)
{
    static const struct {
        bool of_conv;
        int32_t name;
        y5_fuse_role role;
    } tensors[] = {
        {true, Y5_NAME_WEIGHT, Y5_FUSE_WEIGHT},
        {false, Y5_NAME_WEIGHT, Y5_FUSE_GAMMA},
        {false, Y5_NAME_BIAS, Y5_FUSE_BETA},
        {false, Y5_NAME_RUNNING_MEAN, Y5_FUSE_MEAN},
        {false, Y5_NAME_RUNNING_VAR, Y5_FUSE_VARIANCE},
    };
    y5_status status = y5_fuse_module_read(self->state, conv, &self->modules[pair],
                                           self->plan.shapes[pair], self->error);
    if (status == Y5_OK) {
        status = read_eps(self, bn, &self->plan.items[pair].epsilon);
    }
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]) && status == Y5_OK; i++) {
        status = take_tensor(self, tensors[i].of_conv ? conv : bn, tensors[i].name, pair,
                             tensors[i].role);
    }
    return status == Y5_OK ? take_bias(self, conv, pair) : status;
}

/* Y5_UNSUPPORTED where autograd would record the original's operations on the tensors from
 * `first` on. */
static y5_status
check_gradients(fusion *self, int64_t first)
{
    PyObject *enabled = PyObject_CallNoArgs(self->state->torch.is_grad_enabled);
    bool recording = enabled == Py_True;
    Py_XDECREF(enabled);
    for (int64_t i = first; i < self->call.count && recording; i++) {
        PyObject *wanted =
            PyObject_GetAttr(self->call.held[i].object, self->state->names[Y5_NAME_REQUIRES_GRAD]);
        bool unwanted = wanted == Py_False;
        Py_XDECREF(wanted);
        if (!unwanted) {
            return wanted == NULL ? Y5_PYTHON_RAISED
                                  : y5_refuse(self->error, "a gradient is wanted of the result");
        }
    }
    return enabled == NULL ? Y5_PYTHON_RAISED : Y5_OK;
}

static y5_status
collect_pair(fusion *self, PyObject *conv, PyObject *bn, int64_t pair)
{
    const y5_state *state = self->state;
    y5_owner from[2] = {{0}, {0}};
    int64_t first = self->call.count;
    if (!PyObject_TypeCheck(conv, state->torch.convolution_type)) {
        return y5_fail(self->error, Y5_UNSUPPORTED, "conv", "not an nn.Conv2d");
    }
    y5_status status = Y5_PYTHON_RAISED;
    if (y5_owner_open(state, conv, state->torch.convolution_type, &from[0]) &&
        y5_owner_open(state, bn, state->torch.batch_norm_type, &from[1])) {
        status = take_attributes(self, &from[0], &from[1], pair);
    }
    y5_owner_close(&from[0]);
    y5_owner_close(&from[1]);
    return status == Y5_OK ? check_gradients(self, first) : status;
}

static y5_status
collect(fusion *self, PyObject *convs, PyObject *bns)
{
    y5_status status = Y5_OK;
    for (int64_t i = 0; i < self->plan.count && status == Y5_OK; i++) {
        PyObject *conv = y5_list_get(convs, (Py_ssize_t)i); /* Python code may have changed them */
        PyObject *bn = conv != NULL ? y5_list_get(bns, (Py_ssize_t)i) : NULL;
        status = bn != NULL ? collect_pair(self, conv, bn, i) : Y5_PYTHON_RAISED;
        Py_XDECREF(bn);
        Py_XDECREF(conv);
    }
    return status;
}

/* Adds memory that torch has made, or passes its exception on. */
static y5_status
add_new(fusion *self, PyObject *made, int64_t pair, y5_fuse_role role)
{
    y5_status status = made != NULL ? add_tensor(self, made, pair, role) : Y5_PYTHON_RAISED;
    Py_XDECREF(made);
    return status;
}

/* torch.empty in the default dtype, as the original's constructor calls it. */
static y5_status
allocate(fusion *self)
{
    y5_status status = Y5_OK;
    for (int64_t i = 0; i < self->plan.count && status == Y5_OK; i++) {
        const int64_t *shape = self->plan.shapes[i];
        self->modules[i].weight = self->call.count;
        status = add_new(self, y5_fuse_memory(self->state, shape, 4, NULL), i, Y5_FUSED_WEIGHT);
        if (status == Y5_OK) {
            self->modules[i].bias = self->call.count;
            self->modules[i].roots = self->call.count;
            status = add_new(self, y5_fuse_memory(self->state, shape, 1, NULL), i, Y5_FUSED_BIAS);
        }
    }
    return status;
}

/* Where the inputs have another type than the results, memory of their type for the roots. */
static y5_status
allocate_roots(fusion *self)
{
    int64_t inputs = self->modules[0].weight;
    y5_status status = Y5_OK;
    for (int64_t i = 0; i < inputs && status == Y5_OK; i++) {
        y5_fuse_slot slot = self->plan.slots[i];
        const y5_fuse_pair *item = &self->plan.items[slot.pair];
        if (slot.role == Y5_FUSE_VARIANCE && item->dtype != item->fused_dtype) {
            PyObject *made = PyObject_CallFunctionObjArgs(self->state->torch.empty_like,
                                                          self->call.held[i].object, NULL);
            self->modules[slot.pair].roots = self->call.count;
            status = add_new(self, made, slot.pair, Y5_FUSE_ROOTS);
        }
    }
    return status;
}

/* Has the plan look at tensors, and names the one that is refused. */
static y5_status
look(fusion *self, y5_plan steps)
{
    y5_status status = y5_call_run(self->state, &self->call, &steps, self->error);
    if (status == Y5_UNSUPPORTED && self->call.refused >= 0) {
        y5_fuse_role role = self->plan.slots[self->call.refused].role;
        y5_blame(self->error, y5_fuse_name(role));
    }
    return status;
}

/* Replaces variances by their roots: the installed torch's own. */
static y5_status
take_roots(fusion *self)
{
    y5_status status = look(self, y5_fuse_plan_variances(&self->plan));
    for (int64_t i = 0; i < self->plan.count && status == Y5_OK; i++) {
        PyObject *roots = self->call.held[self->modules[i].roots].object;
        status = y5_call_torch(self->state->torch.sqrt_in_place, roots, "torch.sqrt", self->error);
        status = status == Y5_PYTHON_RAISED ? y5_refused(self->error) : status;
    }
    for (int64_t i = 0; i < self->modules[0].weight && status == Y5_OK; i++) {
        if (self->plan.slots[i].role == Y5_FUSE_VARIANCE) { /* the roots took its place */
            y5_call_release(&self->call, i);
        }
    }
    return status;
}

/* From the modules to filled memory. */
static y5_status
fuse_pairs(fusion *self, PyObject *convs, PyObject *bns)
{
    Py_ssize_t count = PyList_Size(convs);
    self->modules = PyMem_Calloc((size_t)count + 1, sizeof(*self->modules));
    if (self->modules == NULL || !y5_fuse_plan_open(&self->plan, count) ||
        !y5_call_reserve(&self->call, count * Y5_FUSE_ROLES)) {
        return Y5_NO_MEMORY;
    }
    self->plan.count = count;
    y5_status status = collect(self, convs, bns);
    if (status == Y5_OK) {
        status = look(self, y5_fuse_plan_types(&self->plan, Y5_FUSE_WEIGHT));
    }
    if (status == Y5_OK) {
        status = allocate(self);
    }
    if (status == Y5_OK) {
        status = look(self, y5_fuse_plan_types(&self->plan, Y5_FUSED_WEIGHT));
    }
    if (status == Y5_OK) {
        status = allocate_roots(self);
    }
    if (status == Y5_OK) {
        status = take_roots(self);
    }
    if (status == Y5_OK) {
        status = look(self, y5_fuse_plan_steps(&self->plan));
    }
    for (int64_t i = 0; i < count && status == Y5_OK; i++) {
        if (self->plan.doubtful[i]) {
            status = y5_refuse(self->error, "weights for which the original's matrix product has "
                                            "bits of its own");
        }
    }
    return status;
}

/* The list of modules, from memory that is filled. */
static PyObject *
make_modules(const fusion *self, PyObject *prototype)
{
    PyObject *fused = PyList_New(0);
    for (int64_t i = 0; fused != NULL && i < self->plan.count; i++) {
        PyObject *const tensors[2] = {self->call.held[self->modules[i].weight].object,
                                      self->call.held[self->modules[i].bias].object};
        PyObject *made = y5_fuse_module_make(self->state, &self->modules[i], tensors, prototype);
        if (made == NULL || PyList_Append(fused, made) < 0) {
            Py_CLEAR(fused);
        }
        Py_XDECREF(made);
    }
    return fused;
}

static void
free_fusion(fusion *self)
{
    for (int64_t i = 0; self->modules != NULL && i < self->plan.count; i++) {
        y5_fuse_module_free(&self->modules[i]);
    }
    PyMem_Free(self->modules);
    y5_fuse_plan_free(&self->plan);
    y5_call_free(&self->call);
}

const char y5_doc_fuse[] =
    "fuse(convs, bns, prototype)\n--\n\n"
    "A list with, for each convolution of the list convs and its batch norm in the list bns, a\n"
    "new nn.Conv2d like the prototype (ops/fuse.py) that computes both. Unsupported, with\n"
    "nothing changed, where torch must do one of them.";

const y5_signature y5_signature_fuse = {true, 3, {"convs", "bns", "prototype"}};

y5_status
y5_py_fuse(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    fusion self = {.state = state, .error = error};
    if (!PyList_Check(values[0]) || !PyList_Check(values[1]) ||
        Py_TYPE(values[2]) != state->torch.convolution_type) {
        return y5_fail(error, Y5_BAD_TYPE, "fuse", "expected two lists and an nn.Conv2d");
    }
    y5_status status = fuse_pairs(&self, values[0], values[1]);
    if (status == Y5_OK) {
        status = y5_give(make_modules(&self, values[2]), result);
    }
    free_fusion(&self);
    return status;
}
