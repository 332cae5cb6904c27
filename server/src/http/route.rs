//! From a path to the endpoints that share it. Literal segments take precedence over ids, one trailing slash is
//! ignored, and an empty segment is an empty id, which is then refused as malformed.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::Method;

use super::endpoint::Endpoint;

/// The base path of the API.
pub const BASE: &str = "/api/v1";

/// The ids of a path, in order. No path has more than two.
pub type Ids = [Box<str>; 2];

/// Maximum number of segments of a path below [`BASE`].
const SEGMENTS_MAX: usize = 5;

/// Whether a segment in the table stands for an id.
fn is_id(pattern: &str) -> bool {
    pattern.starts_with('{')
}

/// The endpoint table, indexed for lookup.
pub struct Routes {
    /// By first segment, which is always a literal. They are so few that comparing them is quicker than a hash.
    paths: Vec<(&'static str, Vec<Resource>)>,
}

/// One path and its methods.
pub struct Resource {
    segments: Vec<&'static str>,
    /// Its endpoints, in the order of the table.
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl Routes {
    /// Builds the index.
    pub fn new(table: Vec<Endpoint>) -> Self {
        let mut paths: BTreeMap<&str, Vec<Resource>> = BTreeMap::new();
        for (number, mut endpoint) in table.into_iter().enumerate() {
            endpoint.number = number;
            let segments: Vec<_> = endpoint.spec.path.split('/').skip(1).collect();
            assert!(segments.len() <= SEGMENTS_MAX, "{}: longer than any lookup", endpoint.spec.path);
            let first = segments.first().copied().unwrap_or_default();
            let here = paths.entry(first).or_default();
            match here.iter_mut().find(|resource| resource.segments == segments) {
                Some(resource) => resource.endpoints.push(Arc::new(endpoint)),
                None => here.push(Resource { segments, endpoints: vec![Arc::new(endpoint)] }),
            }
        }
        for resources in paths.values_mut() {
            // Ids last: `{` sorts after every letter.
            resources.sort_by(|a, b| a.segments.cmp(&b.segments));
        }
        Self { paths: paths.into_iter().collect() }
    }

    /// The resource at `path` (without query, percent-decoded), and the ids in the path.
    pub fn find(&self, path: &str) -> Option<(&Resource, Ids)> {
        let path = path.strip_prefix(BASE)?.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut segments = [""; SEGMENTS_MAX];
        let mut free = segments.iter_mut();
        for segment in path.split('/') {
            *free.next()? = segment;
        }
        let unused = free.len();
        let segments = segments.get(..SEGMENTS_MAX - unused)?;
        let first = segments.first()?;
        let (_, resources) = self.paths.iter().find(|(literal, _)| literal == first)?;
        let resource = resources.iter().find(|resource| resource.matches(segments))?;
        Some((resource, resource.ids(segments)?))
    }

    /// All endpoints, sorted by path.
    pub fn endpoints(&self) -> Vec<&Arc<Endpoint>> {
        let mut endpoints: Vec<_> =
            self.paths.iter().flat_map(|(_, resources)| resources).flat_map(|resource| &resource.endpoints).collect();
        endpoints.sort_by_key(|endpoint| (endpoint.spec.path, endpoint.spec.method.as_str().to_owned()));
        endpoints
    }
}

impl Resource {
    /// Whether these segments are a path of this resource.
    fn matches(&self, segments: &[&str]) -> bool {
        let fits = |(pattern, segment): (&&str, &&str)| is_id(pattern) || **pattern == **segment;
        segments.len() == self.segments.len() && self.segments.iter().zip(segments).all(fits)
    }

    /// The ids among the segments of a matching path.
    fn ids(&self, segments: &[&str]) -> Option<Ids> {
        let mut ids = Ids::default();
        let mut free = ids.iter_mut();
        for (_, segment) in self.segments.iter().zip(segments).filter(|(pattern, _)| is_id(pattern)) {
            *free.next()? = (*segment).into();
        }
        Some(ids)
    }

    /// The endpoint for `method`; HEAD is answered by GET where the endpoint allows it.
    pub fn endpoint(&self, method: &Method) -> Option<&Arc<Endpoint>> {
        let get = || self.endpoints.iter().find(|endpoint| endpoint.spec.method == Method::GET && endpoint.spec.head);
        match self.endpoints.iter().find(|endpoint| endpoint.spec.method == method) {
            None if method == Method::HEAD => get(),
            found => found,
        }
    }

    /// The allowed methods as the `Allow` header spells them.
    pub fn allow(&self) -> String {
        let mut methods: Vec<&str> = self.endpoints.iter().map(|endpoint| endpoint.spec.method.as_str()).collect();
        if self.endpoints.iter().any(|endpoint| endpoint.spec.head) {
            methods.push("HEAD");
        }
        methods.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> Option<(String, Ids)> {
        let routes = Routes::new(crate::http::endpoints::table());
        routes.find(path).map(|(resource, ids)| (resource.segments.join("/"), ids))
    }

    #[test]
    fn paths_lead_to_their_resource_and_ids() {
        for (path, resource, ids) in [
            ("/api/v1/info", "info", ["", ""]),
            ("/api/v1/keys/generate", "keys/generate", ["", ""]),
            ("/api/v1/keys/generate/sign", "keys/{key}/sign", ["generate", ""]),
            ("/api/v1/keys/a", "keys/{key}", ["a", ""]),
            ("/api/v1/keys/a/", "keys/{key}", ["a", ""]),
            ("/api/v1/keys//", "keys/{key}", ["", ""]),
            ("/api/v1/keys//sign", "keys/{key}/sign", ["", ""]),
            ("/api/v1/keys/a/restrictions/tags/b", "keys/{key}/restrictions/tags/{tag}", ["a", "b"]),
        ] {
            assert_eq!(found(path), Some((resource.to_owned(), ids.map(Box::from))), "{path}");
        }
    }

    #[test]
    fn other_paths_lead_nowhere() {
        for path in [
            "/",
            "/api/v1",
            "/api/v1/",
            "/api/v1//keys",
            "/api/v2/keys",
            "/api/v1/keys/a/sign/b",
            "/api/v1/keys/a/restrictions/tags/b/c",
            "/api/v1/keys/a/restrictions/tags/b//",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
