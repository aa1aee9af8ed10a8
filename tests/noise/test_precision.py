"""Products in TF32 or bfloat16, if torch is set to use them, change the noise by less than its error."""

import pytest
import torch
from cases import posterior_of

from vlls.models import cnn3
from vlls.noise import label_noise_moments

ERROR = 0.02  # relative error of the estimate's magnitude in bench_noise.py; a tenth of it is allowed


@pytest.fixture
def precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("method", ["exact", "rank"])
@pytest.mark.parametrize("how", ["high", "medium"])
def test_less_precise_products_stay_within_a_tenth_of_the_error(precision, method, how):
    model, x = cnn3(10, image_size=16).eval(), torch.randn(24, 1, 16, 16)
    posterior = posterior_of(model, 0.02)
    found = []
    for name in ("highest", how):
        precision(name)
        noise = label_noise_moments(model, posterior, x, method=method, curvature_pairs=0)
        found.append(noise.magnitude.double())
    assert float((found[1] - found[0]).norm() / found[0].norm()) < ERROR / 10


class Cast(torch.nn.Linear):
    """Returns logits in half precision, whatever its weights and inputs are."""

    def forward(self, x):
        return super().forward(x).half()


@pytest.mark.parametrize("method", ["exact", "rank", "direction"])
def test_a_cast_of_the_logits_to_half_precision_is_among_the_causes(method):
    model, x = Cast(3, 4), torch.randn(5, 3)
    with pytest.raises(ValueError, match="otherwise than .* a cast to half precision.*monte_carlo"):
        label_noise_moments(model, posterior_of(model, 0.05), x, method=method)
    assert label_noise_moments(model, posterior_of(model, 0.05), x, method="monte_carlo").std.dtype == torch.float32
