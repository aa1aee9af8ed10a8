from vlls.noise.glm import monte_carlo_label_noise, second_order_label_noise, taylor_label_noise
from vlls.noise.linearization import logit_covariance
