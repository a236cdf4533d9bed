"""Operators have several names: aliases of MXNet 1.9.1's registry, and the numpy front end's names."""

from __future__ import annotations

#: Aliases in MXNet's registry. `crop` is `slice`; `Crop` is another operator. `Softmax` is the output layer.
_REGISTRY = """
ElementWiseSum=add_n Softmax=SoftmaxOutput cast=Cast choose_element_0index=pick concat=Concat crop=slice
cumsum=_np_cumsum flatten=Flatten flip=reverse identity=_copy max_axis=max min_axis=min pad=Pad reshape=Reshape
split=SliceChannel stop_gradient=BlockGrad sum_axis=sum swapaxes=SwapAxis
broadcast_axes=broadcast_axis broadcast_minus=broadcast_sub broadcast_plus=broadcast_add
_Plus=elemwise_add _plus=elemwise_add _add=elemwise_add _grad_add=elemwise_add
_Minus=elemwise_sub _minus=elemwise_sub _sub=elemwise_sub
_Mul=elemwise_mul _mul=elemwise_mul _Div=elemwise_div _div=elemwise_div
_Equal=_equal _Not_Equal=_not_equal _Greater=_greater _Greater_Equal=_greater_equal _Lesser=_lesser
_Lesser_Equal=_lesser_equal _Logical_And=_logical_and _Logical_Or=_logical_or _Logical_Xor=_logical_xor
_Hypot=_hypot _Maximum=_maximum _Minimum=_minimum _Mod=_mod _Power=_power
_PlusScalar=_plus_scalar _MinusScalar=_minus_scalar _RMinusScalar=_rminus_scalar _MulScalar=_mul_scalar
_DivScalar=_div_scalar _RDivScalar=_rdiv_scalar _ModScalar=_mod_scalar _RModScalar=_rmod_scalar
_PowerScalar=_power_scalar _RPowerScalar=_rpower_scalar _MaximumScalar=_maximum_scalar
_MinimumScalar=_minimum_scalar _HypotScalar=_hypot_scalar _EqualScalar=_equal_scalar
_NotEqualScalar=_not_equal_scalar _GreaterScalar=_greater_scalar _GreaterEqualScalar=_greater_equal_scalar
_LesserScalar=_lesser_scalar _LesserEqualScalar=_lesser_equal_scalar _LogicalAndScalar=_logical_and_scalar
_LogicalOrScalar=_logical_or_scalar _LogicalXorScalar=_logical_xor_scalar
_contrib_box_non_maximum_suppression=_contrib_box_nms _zeros_without_dtype=_zeros
"""

#: Names of the numpy front end, which take the same inputs and attributes.
_NUMPY = """
_np_copy=_copy _np_repeat=repeat _np_sum=sum _np_max=max _np_amax=max _np_min=min _np_amin=min _np_prod=prod
_np_product=prod _np_transpose=transpose _np_squeeze=squeeze _npi_mean=mean _npi_argmax=argmax _npi_argmin=argmin
_npi_argsort=argsort _npi_cast=Cast _npi_clip=clip _npi_expand_dims=expand_dims _npi_gather_nd=gather_nd
_npi_linspace=_linspace _npi_arange=_arange _npi_zeros=_zeros _npi_ones=_ones _npi_full=_full _npi_slice=slice
_npi_sort=sort _npi_split=_split_v2 _npi_swapaxes=SwapAxis _npi_take=take _npi_tile=tile _npi_flip=reverse
_npi_reshape=_npx_reshape _npi_stack=stack _npi_where=where _npi_broadcast_to=broadcast_to
_npi_rnn_param_concat=_rnn_param_concat _npx_gamma=gamma _npx_gammaln=gammaln
_npi_add=broadcast_add _npi_subtract=broadcast_sub _npi_multiply=broadcast_mul _npi_true_divide=broadcast_div
_npi_mod=broadcast_mod _npi_power=broadcast_power _npi_maximum=broadcast_maximum _npi_minimum=broadcast_minimum
_npi_hypot=broadcast_hypot _npi_add_scalar=_plus_scalar _npi_subtract_scalar=_minus_scalar
_npi_rsubtract_scalar=_rminus_scalar _npi_multiply_scalar=_mul_scalar _npi_true_divide_scalar=_div_scalar
_npi_rtrue_divide_scalar=_rdiv_scalar _npi_mod_scalar=_mod_scalar _npi_rmod_scalar=_rmod_scalar
_npi_power_scalar=_power_scalar _npi_rpower_scalar=_rpower_scalar _npi_maximum_scalar=_maximum_scalar
_npi_minimum_scalar=_minimum_scalar _npi_hypot_scalar=_hypot_scalar
_npi_absolute=abs _npi_abs=abs _npi_arccos=arccos _npi_arccosh=arccosh _npi_arcsin=arcsin _npi_arcsinh=arcsinh
_npi_arctan=arctan _npi_arctanh=arctanh _npi_cbrt=cbrt _npi_ceil=ceil _npi_cos=cos _npi_cosh=cosh
_npi_degrees=degrees _npi_exp=exp _npi_expm1=expm1 _npi_fix=fix _npi_floor=floor _npi_log=log _npi_log10=log10
_npi_log1p=log1p _npi_log2=log2 _npi_negative=negative _npi_radians=radians _npi_reciprocal=reciprocal
_npi_sign=sign _npi_sin=sin _npi_sinh=sinh _npi_sqrt=sqrt _npi_square=square _npi_tan=tan _npi_tanh=tanh
_npi_trunc=trunc _npx_activation=Activation _npx_arange_like=_contrib_arange_like _npx_batch_dot=batch_dot
_npx_batch_flatten=Flatten _npx_batch_norm=BatchNorm _npx_cast=Cast _npx_convolution=Convolution
_npx_deconvolution=Deconvolution _npx_dropout=Dropout _npx_embedding=Embedding _npx_erf=erf
_npx_fully_connected=FullyConnected _npx_gather_nd=gather_nd _npx_layer_norm=LayerNorm
_npx_leaky_relu=LeakyReLU _npx_log_softmax=log_softmax _npx_multibox_prior=_contrib_MultiBoxPrior
_npx_one_hot=one_hot _npx_pick=pick _npx_pooling=Pooling _npx_relu=relu _npx_reshape_like=reshape_like
_npx_rnn=RNN _npx_roi_pooling=ROIPooling _npx_sequence_mask=SequenceMask _npx_shape_array=shape_array
_npx_sigmoid=sigmoid _npx_slice=slice _npx_smooth_l1=smooth_l1 _npx_softmax=softmax _npx_topk=topk
_npx_multibox_detection=_contrib_MultiBoxDetection _npx_group_norm=GroupNorm _npx_instance_norm=InstanceNorm
"""

ALIASES = {
    name: target
    for pair in (_REGISTRY + _NUMPY).split()
    for name, _, target in [pair.partition("=")]
}


def canonical(name: str) -> str:
    """The name under which an operator is known here."""
    bare = name.removeprefix("_sparse_") if name != "_sparse_retain" else name
    if bare.startswith("linalg_"):
        bare = f"_{bare}"
    return ALIASES.get(bare, bare)
