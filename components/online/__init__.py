"""Online hyper-parameter learning (Lin et al., ICCV 2019): one engine for searches that run while a network trains."""
